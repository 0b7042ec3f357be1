"""Sizes and durations as people write and read them."""

from decimal import Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamconv.errors import UsageError
from streamconv.units import (
    MAX_BYTES,
    check_unit,
    parse_rate,
    parse_share,
    parse_size,
    show_duration,
    show_size,
)

FACTORS = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "PB": 10**15,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "PiB": 2**50,
}


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("4GB", 4_000_000_000),
        ("4GiB", 4 * 2**30),
        ("512MiB", 512 * 2**20),
        ("1.5 TB", 1_500_000_000_000),
        ("0.5KiB", 512),
        ("  7 kb ", 7000),
        ("7KB", 7000),
        ("12B", 12),
        ("100", 100),
        (100, 100),
    ],
)
def test_parse_size(text: str | int, nbytes: int) -> None:
    """Decimal units as on the hub, binary ones with an i, no unit for bytes."""
    assert parse_size(text) == nbytes


def test_parse_rate() -> None:
    """A size a second, with or without `/s`. The message calls anything else a rate."""
    assert parse_rate("200MB/s") == parse_rate("200 MB") == 200_000_000
    assert parse_rate("1GiB/s") == 2**30
    assert parse_rate(7) == 7
    with pytest.raises(
        UsageError, match=r"^cannot read the rate 'fast': it is not a number with a unit"
    ):
        parse_rate("fast")


@pytest.mark.parametrize(
    ("text", "share"),
    [("5%", 0.05), ("0.05", 0.05), ("100%", 1), ("0.1%", 0.001), (1, 1), (1e-9, 1e-9)],
)
def test_parse_share(text: str | float, share: float) -> None:
    """A percentage, or a fraction of 1."""
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("many", "it is not a number or a percentage"),
        ("%", "it is not a number or a percentage"),
        ("5 %%", "it is not a number or a percentage"),
        ("0%", "it must be above 0 and at most 1"),
        ("101%", "it must be above 0 and at most 1"),
        (-0.5, "it must be above 0 and at most 1"),
        (float("nan"), "it must be above 0 and at most 1"),
        ("9" * 5000, "it must be above 0 and at most 1"),
    ],
)
def test_what_is_no_share_is_refused(text: str | float, fact: str) -> None:
    """With the reason, in one line."""
    with pytest.raises(UsageError) as caught:
        parse_share(text)
    assert caught.value.message.startswith("cannot read the share ")
    assert caught.value.message.endswith(fact)
    assert len(caught.value.message) < 300


@settings(deadline=None)
@given(whole=st.integers(0, 10**15), unit=st.sampled_from([*FACTORS]), blank=st.booleans())
def test_whole_sizes_are_exact(whole: int, unit: str, blank: bool) -> None:
    """In any case of letters, up to the largest number that a file system has."""
    text = f"{whole}{' ' if blank else ''}{unit}"
    for written in (text, text.lower(), text.upper()):
        if not 0 < whole * FACTORS[unit] <= MAX_BYTES:
            with pytest.raises(UsageError):
                parse_size(written)
        else:
            assert parse_size(written) == whole * FACTORS[unit]


@settings(deadline=None)
@given(thousandths=st.integers(1, 10**7), unit=st.sampled_from(["kB", "MB", "GB", "TB"]))
@example(thousandths=1001, unit="kB")
@example(thousandths=4350, unit="GB")
def test_decimal_fractions_are_exact(thousandths: int, unit: str) -> None:
    """`1.001kB` is 1001 bytes, not the one that floating point makes of it."""
    text = f"{Decimal(thousandths) / 1000:.3f}{unit}"
    assert parse_size(text) == thousandths * FACTORS[unit] // 1000


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "GB",
        "-1",
        "-4GB",
        "0",
        "0.0GB",
        "0.4",
        "4XB",
        "4 G B",
        "1e9",
        "nan",
        "4,5GB",
        "1.GB",
        ".5GB",
        "0x10",
        "4GBs",
        "4GB 4GB",
        "1_000",
    ],
)
def test_what_is_no_size_is_refused(text: str) -> None:
    """The message repeats the text as it was given."""
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert caught.value.message.startswith(f"cannot read the size {text!r}: it ")


@pytest.mark.parametrize(
    "text",
    [
        "9" * 5000,
        "0." + "9" * 5000,
        "1" + "0" * 30,
        "99999PB",
        "\u0663",
        10**5000,
        2**63,
        "1\x1b[31m",
    ],
    ids=range(8),
)
def test_what_is_absurd_is_refused_in_one_line(text: str | int) -> None:
    """As a size and as a rate: numbers of any length, other digits, escapes."""
    for parse in (parse_size, parse_rate):
        with pytest.raises(UsageError) as caught:
            parse(text)
        assert len(caught.value.message) < 300
        assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("nbytes", "shown"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (512, "512 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9994, "9.99 kB"),
        (9995, "10.0 kB"),
        (99_940, "99.9 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (61_064_245_248, "61.1 GB"),
        (1_096_000_000_000, "1.10 TB"),
        (5_000_000_000_000_000, "5000 TB"),
    ],
)
def test_show_size(nbytes: int, shown: str) -> None:
    """Three figures and a decimal unit."""
    assert show_size(nbytes) == shown


@settings(deadline=None)
@given(nbytes=st.integers(1, 10**18))
def test_what_is_shown_can_be_read_back(nbytes: int) -> None:
    """To half of the last figure, with exactly three of them from a kilobyte to a petabyte."""
    shown = show_size(nbytes)
    assert abs(parse_size(shown) - nbytes) <= 0.0051 * nbytes
    if 1000 <= nbytes < 999.5e12:
        assert len(shown.split()[0].replace(".", "")) == 3


@settings(deadline=None)
@given(st.integers(1, 10**18), st.integers(1, 10**18))
def test_a_larger_size_is_not_shown_as_a_smaller_one(one: int, other: int) -> None:
    """Figures and units keep the order."""
    small, large = sorted((one, other))
    assert parse_size(show_size(small)) <= parse_size(show_size(large))


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0.0 s"),
        (0.04, "0.0 s"),
        (12.34, "12.3 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (60, "1 min 00 s"),
        (119.6, "2 min 00 s"),
        (245, "4 min 05 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (3600, "1 h 00 min"),
        (7_659, "2 h 07 min"),
        (100 * 3600, "100 h 00 min"),
    ],
)
def test_show_duration(seconds: float, shown: str) -> None:
    """Tenths of seconds, then minutes and seconds, then hours and minutes."""
    assert show_duration(seconds) == shown


@pytest.mark.parametrize("text", ["4", "1", " 512 ", "999.9", "0.5", "200/s"])
def test_a_few_bytes_without_a_unit_are_not_meant(text: str) -> None:
    number = text.strip().removesuffix("/s")
    with pytest.raises(UsageError, match=f"{number} bytes?\\?") as error:
        check_unit(text, 1000)
    assert error.value.hint.startswith(f"write {number}GB or ")


@pytest.mark.parametrize("text", ["4B", "4GB", "1000", "4kB/s", "0", "nonsense", "5000/s"])
def test_everything_else_is_left_to_the_parser(text: str) -> None:
    check_unit(text, 1000)

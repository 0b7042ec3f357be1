"""Options of the user that are parsed."""

import pytest

from streamconv.errors import UsageError
from streamconv.options import MAX_JOBS, check_jobs, parse_layers


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("0:2", {0, 1}),
        ("3", {3}),
        ("0", {0}),
        (":2", {0, 1}),
        ("61:62", {61}),
    ],
)
def test_parse_layers(text: str, layers: set[int]) -> None:
    """A range as Python writes it, or one layer."""
    assert set(parse_layers(text)) == layers


def test_parse_layers_without_an_end() -> None:
    """From one layer on."""
    assert [k for k in (0, 1, 10_000) if k in parse_layers("1:")] == [1, 10_000]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "2:1",
        "2:2",
        "0:-1",
        "-2:",
        "a",
        "0:b",
        "1:2:3",
        "1.5",
        "1_0",
        "\u0663",
        "nan",
        "9" * 10,
        "0:" + "9" * 5000,
        "0:1\n",
    ],
)
def test_parse_layers_refuses(text: str) -> None:
    """Text that is no range, or an empty one."""
    with pytest.raises(UsageError, match=r"^cannot read the layers .*: they are not a range$"):
        parse_layers(text)


@pytest.mark.parametrize("jobs", [None, 1, MAX_JOBS])
def test_numbers_of_workers(jobs: int | None) -> None:
    """From 1 to a stated limit."""
    check_jobs(jobs)


@pytest.mark.parametrize("jobs", [0, -1, MAX_JOBS + 1, 10**30, -(10**30), 10**5000], ids=range(6))
def test_absurd_numbers_of_workers_are_refused(jobs: int) -> None:
    """At once, with the limit."""
    with pytest.raises(
        UsageError, match=r"^cannot start .* workers: jobs must be from 1 to 1024$"
    ) as caught:
        check_jobs(jobs)
    assert len(caught.value.message) < 80

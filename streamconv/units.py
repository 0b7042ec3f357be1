"""Sizes in bytes, rates, shares and durations, as people write and read them.

Decimal units as on the hub (`4GB` is 4 * 10^9 bytes), binary ones with an i (`4GiB`).
"""

import re

from streamconv.errors import UsageError, quoted

MAX_BYTES = 2**63 - 1
"""The largest size. No file system has larger files."""
HUGE_PAGE_BYTES = 2 * 2**20
"""Size of a huge page on x86-64 and arm64. A buffer that is at least as large has such pages."""

_FACTOR = {
    "": 1,
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGTP", start=1)},
    **{f"{letter}IB": 1024**power for power, letter in enumerate("KMGTP", start=1)},
}
_SIZE = re.compile(r"\s*([0-9]{1,40}(?:\.[0-9]{1,40})?)\s*([A-Za-z]{0,3})\s*")


def parse_size(text: str | int) -> int:
    """Return the bytes in `text`: `4GB`, `512MiB`, `1.5 TB`, or a plain number of bytes.

    Raises UsageError if it is not a size, less than 1 byte, or more than MAX_BYTES.
    """
    text = _as_text(text)
    return _parse("size", text, text, "write 4GB, 512MiB or a number of bytes")


def parse_rate(text: str | int) -> int:
    """Return the bytes per second in `text`: `200MB/s`, `1GiB/s`, or a plain number of bytes.

    Raises UsageError if it is not a rate, less than 1 byte, or more than MAX_BYTES.
    """
    text = _as_text(text)
    size = text.strip().removesuffix("/s")
    return _parse("rate", text, size, "write 200MB/s, 1GiB/s or a number of bytes")


def check_unit(text: str, least: int) -> None:
    """Raise UsageError for a number without a unit that is too small to be meant in bytes.

    Args:
        text: A size or rate as somebody has typed it, which can be parsed.
        least: The smallest number that may be meant in bytes.
    """
    match = _SIZE.fullmatch(text.strip().removesuffix("/s"))
    if match is not None and not match[2] and 0 < float(match[1]) < least:
        number = match[1]
        raise UsageError(
            f"cannot use {quoted(repr(text))}: {number} byte{'' if number == '1' else 's'}?",
            f"write {number}GB or {number}MB, or {number}B if bytes are meant",
        )


def _parse(kind: str, text: str, size: str, hint: str) -> int:
    """Return the bytes in `size`, or raise UsageError that calls `text` a `kind`."""
    match = _SIZE.fullmatch(size)
    factor = _FACTOR.get(match[2].upper()) if match else None
    cannot = f"cannot read the {kind} {quoted(repr(text))}"
    if match is None or factor is None:
        raise UsageError(f"{cannot}: it is not a number with a unit of bytes", hint)
    whole, _, decimals = match[1].partition(".")
    nbytes: int = int(whole + decimals) * factor // 10 ** len(decimals)
    if nbytes < 1:
        raise UsageError(f"{cannot}: it must be at least 1 byte", hint)
    if nbytes > MAX_BYTES:
        raise UsageError(f"{cannot}: it must be less than 2^63 bytes", hint)
    return nbytes


def _as_text(value: str | int) -> str:
    """Return a size as text; a number outside of the allowed range becomes one just outside of it.

    Python does not convert integers of more than 4300 digits to text.
    """
    return value if isinstance(value, str) else str(max(-1, min(value, MAX_BYTES + 1)))


def parse_share(text: str | float) -> float:
    """Return the fraction meant by `5%`, `0.05` or a number, above 0 and at most 1.

    Raises UsageError if it is not such a fraction.
    """
    hint = "write 5% or 0.05"
    cannot = f"cannot read the share {quoted(repr(text))}"
    try:
        is_percentage = isinstance(text, str) and text.endswith("%")
        share = float(str(text).removesuffix("%")) / (100 if is_percentage else 1)
    except ValueError:
        raise UsageError(f"{cannot}: it is not a number or a percentage", hint) from None
    if not 0 < share <= 1:
        raise UsageError(f"{cannot}: it must be above 0 and at most 1", hint)
    return share


def show_size(nbytes: float) -> str:
    """Return `nbytes` with three figures and a decimal unit: `61.1 GB`, `512 B`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(nbytes) < 999.5 or unit == "TB":
            break
        nbytes /= 1000
    digits = 0 if unit == "B" or nbytes >= 99.95 else 1 if nbytes >= 9.995 else 2
    return f"{nbytes:.{digits}f} {unit}"


def show_duration(seconds: float) -> str:
    """Return `seconds` as `12.3 s`, `4 min 05 s` or `2 h 07 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"

"""Sizes in bytes, rates and durations, as people write and read them.

Decimal units as on the hub (`4GB` is 4 * 10^9 bytes), binary ones with an i (`4GiB`).
"""

import re

from streamconv.errors import UsageError, quoted

MAX_BYTES = 2**63 - 1
"""The largest size: no file system counts further."""

_FACTOR = {
    "": 1,
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGTP", start=1)},
    **{f"{letter}IB": 1024**power for power, letter in enumerate("KMGTP", start=1)},
}
_SIZE = re.compile(r"\s*([0-9]{1,40}(?:\.[0-9]{1,40})?)\s*([A-Za-z]{0,3})\s*")


def parse_size(text: str | int) -> int:
    """Return the bytes in `text`: `4GB`, `512MiB`, `1.5 TB`, or a plain number of bytes.

    Raises UsageError if it is no size, less than 1 byte, or more than MAX_BYTES.
    """
    from fractions import Fraction

    if isinstance(text, int):
        text = str(text) if abs(text) <= MAX_BYTES else "an integer with more than 63 bits"
    shown = quoted(repr(text))
    match = _SIZE.fullmatch(text)
    factor = _FACTOR.get(match[2].upper()) if match else None
    if match is None or factor is None:
        raise UsageError(f"{shown} is not a size", "write 4GB, 512MiB or a number of bytes")
    size = int(Fraction(match[1]) * factor)
    if size <= 0:
        raise UsageError(f"{shown} is not a size: it must be at least 1 byte")
    if size > MAX_BYTES:
        raise UsageError(f"{shown} is not a size: it must be less than 2^63 bytes")
    return size


def parse_rate(text: str | int) -> int:
    """Return the bytes per second in `text`: `200MB/s`, `1GiB/s`, or a plain number of bytes.

    Raises UsageError if it is no rate.
    """
    try:
        return parse_size(text if isinstance(text, int) else text.strip().removesuffix("/s"))
    except UsageError:
        shown = "the number" if isinstance(text, int) else quoted(repr(text))
        raise UsageError(f"{shown} is not a rate", "write 200MB/s or 1GiB/s") from None


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

"""Sizes in bytes, rates and durations, as people write and read them.

Decimal units as on the hub (`4GB` is 4 * 10^9 bytes), binary ones with an i (`4GiB`).
"""

import re

from streamconv.errors import UsageError

_FACTOR = {
    "": 1,
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGTP", start=1)},
    **{f"{letter}IB": 1024**power for power, letter in enumerate("KMGTP", start=1)},
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_size(text: str | int) -> int:
    """Return the bytes in `text`: `4GB`, `512MiB`, `1.5 TB`, or a plain number of bytes.

    Raises UsageError if it is no size, or less than 1 byte.
    """
    from fractions import Fraction

    match = _SIZE.fullmatch(str(text))
    factor = _FACTOR.get(match[2].upper()) if match else None
    if match is None or factor is None:
        raise UsageError(f"{str(text)!r} is not a size", "write 4GB, 512MiB or a number of bytes")
    size = int(Fraction(match[1]) * factor)
    if size <= 0:
        raise UsageError(f"{str(text)!r} is not a size: it must be at least 1 byte")
    return size


def parse_rate(text: str | int) -> int:
    """Return the bytes per second in `text`: `200MB/s`, `1GiB/s`, or a plain number of bytes.

    Raises UsageError if it is no rate.
    """
    try:
        return parse_size(str(text).strip().removesuffix("/s"))
    except UsageError:
        raise UsageError(f"{str(text)!r} is not a rate", "write 200MB/s or 1GiB/s") from None


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

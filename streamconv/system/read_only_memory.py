"""The memory of this process that cannot be written, such as a map of a file for reading.

Linux lists it in /proc/self/maps. On other systems nothing is known, and nothing counts as
read-only.
"""

import bisect
from collections.abc import Iterable
from pathlib import Path

MAPS = Path("/proc/self/maps")


class ReadOnlyMemory:
    """The read-only ranges of memory, as they are when it is made."""

    def __init__(self) -> None:
        try:
            lines = MAPS.read_bytes().splitlines()
        except OSError:
            lines = []
        self._begins, self._ends = _read_only(lines)

    def has(self, address: int, nbytes: int) -> bool:
        """Return True if one of the bytes from an address on cannot be written."""
        number = bisect.bisect_left(self._begins, address + nbytes)
        return number > 0 and nbytes > 0 and self._ends[number - 1] > address


def _read_only(lines: Iterable[bytes]) -> tuple[list[int], list[int]]:
    """Return where the ranges that cannot be written begin, in order, and where they end."""
    begins, ends = [], []
    for line in lines:  # 7f3a60000000-7f3a60021000 r--p 00000000 08:01 131 /path
        place, permissions = line.split(maxsplit=2)[:2]
        if permissions[1:2] != b"w":
            begin, end = place.split(b"-")
            begins.append(int(begin, 16))
            ends.append(int(end, 16))
    return begins, ends

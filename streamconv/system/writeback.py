"""Which written bytes a file has on their way to the disk, and when to wait for the oldest. Pure.

A kernel left to itself lets gigabytes gather in its page cache before it writes the first of
them: the disk idles, then everybody waits, and what others had in that memory is gone. Past the
cache (`O_DIRECT`) there is none of that, but each write also waits for the disk by itself. Here
a range is begun to be written as soon as it is in the cache, and the oldest one is waited for and
dropped from the cache when more than a window is under way: the disk always has work, and the
cache never more than that window. Of 9.7 GB on a virtual disk that took 0.72 to 0.78 of the time of
`cp -r` and sync, and direct writes 0.88 to 0.96, medians of three.
"""

import threading
from collections import deque

WINDOW_BYTES = 64 * 2**20
"""What of a file may be on its way to the disk: a fiftieth of a second of a fast one."""

Range = tuple[int, int]
"""Offset and size of a run of a file, in bytes."""


class Writeback:
    """The ranges of one file that are being written, in the order in which that was begun."""

    def __init__(self, window: int = WINDOW_BYTES) -> None:
        self._window = window
        self._under_way: deque[Range] = deque()
        self._nbytes = 0
        self._lock = threading.Lock()

    def begun(self, offset: int, nbytes: int) -> list[Range]:
        """Take note of a range; returns those that have to be waited for now, the oldest first."""
        with self._lock:
            self._under_way.append((offset, nbytes))
            self._nbytes += nbytes
            due = []
            while self._nbytes > self._window and len(self._under_way) > 1:
                due.append(self._under_way.popleft())
                self._nbytes -= due[-1][1]
            return due

"""Write-back: which written bytes of a file are on their way to the disk, and which to wait for.

If the kernel decides when to write, gigabytes gather in its page cache first. The disk idles, then
everybody waits, and the cached files of other processes are dropped. Direct writes (`O_DIRECT`)
bypass the cache, but each of them waits for the disk.

Here, a range starts to be written as soon as it is in the cache. If more than a window is under
way, the oldest range is waited for and dropped from the cache. So the disk always has work, and the
cache holds no more than that window. Measured with 9.7 GB on a virtual disk, medians of three: 0.72
to 0.78 of the time of `cp -r` and sync; direct writes took 0.88 to 0.96.
"""

import threading
from collections import deque

WINDOW_BYTES = 64 * 2**20
"""Bytes of a file that may be on their way to the disk: 1/50 second of a fast one."""

Range = tuple[int, int]
"""Offset and size in bytes."""


class Writeback:
    """The ranges of one file that are being written, oldest first. Safe for several threads."""

    def __init__(self, window: int = WINDOW_BYTES) -> None:
        self._window = window
        self._under_way: deque[Range] = deque()
        self._nbytes = 0
        self._lock = threading.Lock()

    def start(self, offset: int, nbytes: int) -> list[Range]:
        """Record that a range is being written; return the ranges to wait for now, oldest first."""
        with self._lock:
            self._under_way.append((offset, nbytes))
            self._nbytes += nbytes
            due = []
            while self._nbytes > self._window and len(self._under_way) > 1:
                due.append(self._under_way.popleft())
                self._nbytes -= due[-1][1]
            return due

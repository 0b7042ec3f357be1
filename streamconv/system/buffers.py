"""Memory for the bytes of tensors."""

import contextlib
import ctypes
import functools
import mmap
import weakref
from collections import deque

from streamconv.units import HUGE_PAGE_BYTES


def new_buffer(nbytes: int) -> memoryview:
    """Return writable memory, filled with zeros. A page takes memory once it is written to.

    The memory has huge pages if the system offers them. With small pages, reading the columns of a
    matrix spends more time on address translation than on the bytes.
    """
    memory = _private(max(nbytes, 1))
    if nbytes >= HUGE_PAGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


def _private(nbytes: int) -> mmap.mmap:
    """Map memory of this process alone. The default is shared, and has no huge pages mostly."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, nbytes)
    return mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def return_freed_memory() -> None:
    """Give memory that Python has freed back to the system, if the C library can do so."""
    if can_return_memory():
        ctypes.CDLL(None).malloc_trim(0)


@functools.cache
def can_return_memory() -> bool:
    """Return True if the C library can give freed memory back to the system, as glibc can."""
    try:
        return hasattr(ctypes.CDLL(None), "malloc_trim")
    except (OSError, TypeError):
        return False


class BufferPool:
    """Memory that is used again once nobody refers to it, as fresh pages cost more than bytes.

    Several threads may use it. A process that is forked has a copy of its own.
    """

    def __init__(self, most: int) -> None:
        """Hold no memory yet, and never more than `most` bytes that are not in use."""
        self._most = most
        self._free: deque[mmap.mmap] = deque()

    def take(self, nbytes: int) -> "ctypes.Array[ctypes.c_char]":
        """Return memory of `nbytes`, with any content; it comes back when it is collected."""
        memory = self._fitting(nbytes)
        if memory is None:
            # no huge pages: for so many of them the system may first have to move pages of its
            # cache, which takes several times as long as small ones do
            memory = _private(nbytes)
        lent = (ctypes.c_char * nbytes).from_buffer(memory)
        weakref.finalize(lent, self._give_back, memory).atexit = False
        return lent

    def clear(self) -> None:
        """Give all memory that is not in use back to the system."""
        self._free.clear()

    def _fitting(self, nbytes: int) -> mmap.mmap | None:
        """Return free memory of at least `nbytes` that is not much larger, or None."""
        for _ in range(len(self._free)):
            try:
                memory = self._free.popleft()
            except IndexError:
                return None
            if nbytes <= len(memory) <= 2 * nbytes:
                return memory
            self._free.append(memory)
        return None

    def _give_back(self, memory: mmap.mmap) -> None:
        """Keep memory that is not in use any more; drop the oldest if it is too much."""
        self._free.append(memory)
        while sum(map(len, list(self._free))) > self._most:
            try:
                self._free.popleft()
            except IndexError:
                return

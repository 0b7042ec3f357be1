"""Memory for the bytes of tensors."""

import contextlib
import mmap
import sys

HUGE_PAGE = 2 * 2**20
"""Bytes of a huge page on x86-64 and arm64."""
MAP_NORESERVE = 0x4000
"""The flag on Linux, which Python's `mmap` does not name."""


def new_buffer(nbytes: int) -> memoryview:
    """Return writable memory, filled with zeros. A page takes memory once it is written to.

    The memory has huge pages if the system offers them. With small pages, reading the columns of a
    matrix spends more time on address translation than on the bytes.
    """
    memory = mmap.mmap(-1, max(nbytes, 1))
    if nbytes >= HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


def private_map(fd: int) -> memoryview:
    """Return a map of an open file; writing to it changes neither the file nor other maps.

    No memory is set aside for it, as hardly anything will be written. Raises OSError.
    """
    flags = mmap.MAP_PRIVATE | (MAP_NORESERVE if sys.platform == "linux" else 0)
    return memoryview(mmap.mmap(fd, 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE))

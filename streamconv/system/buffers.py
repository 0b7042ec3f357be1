"""Memory for the bytes of tensors."""

import contextlib
import mmap

HUGE_PAGE = 2 * 2**20
"""Bytes of a huge page on x86-64 and arm64."""


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

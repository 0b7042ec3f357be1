"""Memory for tensors: fresh, and used again."""

import ctypes
import gc
import os
import platform

import numpy as np
import pytest
import torch
from file_calls import PAGE

from streamconv.system.buffers import (
    BufferPool,
    can_return_memory,
    new_buffer,
    return_freed_memory,
)
from streamconv.units import HUGE_PAGE_BYTES


@pytest.mark.parametrize("nbytes", [1, PAGE, PAGE + 1, HUGE_PAGE_BYTES + 1])
def test_new_buffer(nbytes: int) -> None:
    """Zeroed memory of that size that can be written."""
    buffer = new_buffer(nbytes)
    assert len(buffer) == nbytes
    assert not any(buffer)
    buffer[-1] = 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="has no fork")
def test_a_forked_process_has_buffers_of_its_own() -> None:
    """What it writes is not seen by the process that was forked."""
    buffer = new_buffer(PAGE)
    pid = os.fork()
    if pid == 0:
        buffer[0] = 1
        os._exit(0)
    os.waitpid(pid, 0)
    assert buffer[0] == 0


def test_memory_comes_back_when_nobody_refers_to_it() -> None:
    """Not before: a view of it keeps it, whatever array it is in."""
    pool = BufferPool(10**6)
    first = torch.frombuffer(pool.take(5000), dtype=torch.uint8)
    address = first.data_ptr()
    view = first[100:200]
    del first
    other = torch.frombuffer(pool.take(5000), dtype=torch.uint8)
    assert not address <= other.data_ptr() < address + 5000
    del view
    gc.collect()
    again = np.frombuffer(pool.take(4000), np.uint8)
    assert again.ctypes.data == address


def test_no_more_is_kept_than_allowed() -> None:
    """Nor is memory lent that is much larger than what is asked for, nor after it was cleared."""
    pool = BufferPool(9000)
    lent = [pool.take(5000) for _ in range(3)]
    del lent
    gc.collect()
    assert sum(map(len, pool._free)) <= 9000
    small = pool.take(100)
    assert (len(small), len(pool._free)) == (100, 1)
    pool.clear()
    assert len(pool._free) == 0


def test_memory_is_returned_if_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """glibc can. Another one has no such function, and is not asked to."""
    assert can_return_memory() == (platform.libc_ver()[0] == "glibc")
    return_freed_memory()
    can_return_memory.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(ctypes, "CDLL", lambda _: object())
        assert not can_return_memory()
        return_freed_memory()
    can_return_memory.cache_clear()

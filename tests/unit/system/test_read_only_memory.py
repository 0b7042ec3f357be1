"""Memory that cannot be written is told from memory that can."""

import ctypes
import mmap
import tempfile
from pathlib import Path

import numpy as np
import pytest

from streamconv.system import read_only_memory
from streamconv.system.read_only_memory import MAPS, ReadOnlyMemory

PAGE = mmap.PAGESIZE

pytestmark = pytest.mark.skipif(not MAPS.exists(), reason="Linux lists the memory of a process")


def address_of(memory: mmap.mmap) -> int:
    return int(np.frombuffer(memory, np.uint8).ctypes.data)


@pytest.mark.parametrize(
    ("protection", "is_read_only"),
    [(mmap.PROT_READ, True), (mmap.PROT_READ | mmap.PROT_WRITE, False)],
)
def test_a_map(protection: int, is_read_only: bool) -> None:
    """Whether it is looked at from its begin, its middle or its end."""
    with tempfile.TemporaryFile() as file:
        file.truncate(4 * PAGE)
        memory = mmap.mmap(file.fileno(), 4 * PAGE, mmap.MAP_PRIVATE, protection)
    begin, found = address_of(memory), ReadOnlyMemory()
    for address, nbytes in ((begin, 1), (begin, 4 * PAGE), (begin + 4 * PAGE - 1, 1)):
        assert found.has(address, nbytes) == is_read_only
    assert not found.has(begin, 0)


def test_a_range_that_ends_in_one() -> None:
    """One page of three cannot be written."""
    memory = mmap.mmap(-1, 3 * PAGE)
    begin = address_of(memory)
    protect = ctypes.CDLL(None).mprotect
    assert protect(ctypes.c_void_p(begin + PAGE), PAGE, mmap.PROT_READ) == 0
    found = ReadOnlyMemory()
    assert found.has(begin, PAGE + 1)
    assert not found.has(begin, PAGE)
    assert found.has(begin + 2 * PAGE - 1, 5)
    assert not found.has(begin + 2 * PAGE, PAGE)


def test_without_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known."""
    monkeypatch.setattr(read_only_memory, "MAPS", Path("/no/such/file"))
    memory = b"x" * PAGE
    assert not ReadOnlyMemory().has(id(memory), 1)

"""A file read ahead comes whole and in order, at any size of block, and errors come as they are."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamconv.system.readahead import ReadAhead


def filling(content: bytes, buffer: memoryview, offset: int) -> int:
    data = content[offset : offset + len(buffer)]
    buffer[: len(data)] = data
    return len(data)


@given(st.binary(max_size=50), st.integers(1, 20), st.lists(st.integers(1, 20), min_size=60))
def test_bytes_come_whole_and_in_order(content: bytes, block: int, most: list[int]) -> None:
    """In pieces no larger than asked for; none at the end, however often that is asked."""
    found = b""
    with (
        ThreadPoolExecutor(1) as reader,
        closing(ReadAhead(lambda b, o: filling(content, b, o), block, reader)) as ahead,
    ):
        for limit in most:
            data = ahead.read(limit)
            assert len(data) <= limit
            assert data or found == content
            found += bytes(data)
    assert found == content


def test_the_next_block_is_read_while_one_is_used() -> None:
    """Into other memory; and not one more than that."""
    began = threading.Semaphore(0)
    offsets = []

    def fill(buffer: memoryview, offset: int) -> int:
        offsets.append(offset)
        buffer[:] = bytes([offset]) * len(buffer)
        began.release()
        return len(buffer)

    with ThreadPoolExecutor(1) as reader, closing(ReadAhead(fill, 4, reader)) as ahead:
        data = ahead.read(4)
        for _ in range(2):
            assert began.acquire(timeout=10)
        assert (bytes(data), offsets) == (b"\0\0\0\0", [0, 4])


def test_what_reading_raises() -> None:
    """Comes where the bytes would have come."""

    def fill(buffer: memoryview, offset: int) -> int:
        if offset:
            raise OSError(5, "Input/output error")
        return len(buffer)

    with ThreadPoolExecutor(1) as reader, closing(ReadAhead(fill, 4, reader)) as ahead:
        assert len(ahead.read(8)) == 4
        with pytest.raises(OSError, match="Input/output error"):
            ahead.read(8)

"""The write buffer: every byte reaches the file once, in long writes."""

import errno
import threading
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_work import PAGE, Work, carry_out, fill, works

from streamconv.sinks.write_buffer import WriteBuffer


@settings(deadline=None, max_examples=60)
@given(work=works())
def test_every_byte_is_written_once(work: Work) -> None:
    """Each byte of each run reaches the file at its offset, in writes as long as the buffer."""
    result = bytearray(len(work.content))
    times = bytearray(len(work.content))

    def write(offset: int, data: memoryview) -> None:
        assert 0 < len(data) <= work.buffer
        result[offset : offset + len(data)] = data
        for k in range(offset, offset + len(data)):
            times[k] += 1

    carry_out(work, write)
    assert bytes(result) == work.content
    assert set(times) == {1}


def test_writes_are_long_ones() -> None:
    """A run that comes in little pieces is written a buffer at a time."""
    written = []
    buffer = WriteBuffer(100)
    buffer.begin(7, lambda offset, data: written.append((offset, len(data))))
    for _ in range(21):
        buffer.next(10)
    buffer.exactly(95)
    buffer.flush()
    assert written == [(7, 100), (107, 100), (207, 10), (217, 95)]


def test_each_run_goes_to_its_own_file() -> None:
    """The end of a run is written before the next one begins."""
    files: dict[str, bytes] = {}

    def writes_to(name: str) -> Callable[[int, memoryview], None]:
        def write(offset: int, data: memoryview) -> None:
            files[name] = files.get(name, b"") + bytes(data)

        return write

    buffer = WriteBuffer(PAGE)
    for name in "abc":
        content = name.encode() * 5000
        buffer.begin(3, writes_to(name))
        fill(buffer, Work(content, [], 1, PAGE, 4000), (0, 5000))
        buffer.flush()
    assert files == {name: name.encode() * 5000 for name in "abc"}


@settings(deadline=None, max_examples=40)
@given(work=works(), fails_at=st.integers(0, 20))
def test_errors_of_writing_surface(work: Work, fails_at: int) -> None:
    """The call that wrote raises the error as it is."""
    calls = []
    counting = threading.Lock()

    def write(offset: int, data: memoryview) -> None:
        with counting:
            calls.append(offset)
            failing = len(calls) == fails_at + 1
        if failing:
            raise OSError(errno.EIO, "broken")

    try:
        carry_out(work, write)
    except OSError as error:
        assert error.errno == errno.EIO
        assert len(calls) > fails_at
    else:
        assert len(calls) <= fails_at


def test_a_run_has_to_begin() -> None:
    """Nothing is written to nowhere."""
    buffer = WriteBuffer(10)
    buffer.next(10)
    with pytest.raises(AssertionError, match="begin was not called"):
        buffer.flush()

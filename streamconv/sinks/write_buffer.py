"""A contiguous run of output, gathered in one buffer so that every write is a long one."""

from collections.abc import Callable

from streamconv.system.file_ops import new_buffer

Write = Callable[[int, memoryview], object]
"""Writes bytes at an offset of the file."""


class WriteBuffer:
    """The buffer of one worker. A run is begun, filled by `next` or `exactly`, and ended.

    Each of its bytes is written when its place in the buffer is needed, at the end at the latest;
    any call but `begin` raises what `write` does.
    """

    def __init__(self, nbytes: int) -> None:
        self._buffer = new_buffer(nbytes)
        self._write: Write = _nowhere
        self._offset = 0
        self._filled = 0

    def begin(self, offset: int, write: Write) -> None:
        """Begin a run at `offset` of a file that `write` writes to."""
        self._write = write
        self._offset = offset
        self._filled = 0

    def next(self, limit: int) -> memoryview:
        """Memory for the next bytes of the run, to be filled: at least one, at most `limit`."""
        if self._filled == len(self._buffer):
            self.flush()
        return self._take(min(limit, len(self._buffer) - self._filled))

    def exactly(self, nbytes: int) -> memoryview:
        """Memory for exactly the next `nbytes` of the run, which the buffer has room for."""
        if self._filled + nbytes > len(self._buffer):
            self.flush()
        return self._take(nbytes)

    def flush(self) -> None:
        """Write what is left; what follows is the next bytes of the run, or another run."""
        data = self._buffer[: self._filled]
        if data:
            self._write(self._offset, data)
            self._offset += len(data)
            self._filled = 0

    def _take(self, nbytes: int) -> memoryview:
        room = self._buffer[self._filled : self._filled + nbytes]
        self._filled += nbytes
        return room


def _nowhere(offset: int, data: memoryview) -> None:
    raise AssertionError("no run has begun")

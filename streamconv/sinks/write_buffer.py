"""A buffer that joins many short writes to a file into a few long ones."""

from collections.abc import Callable

from streamconv.system.buffers import new_buffer

Write = Callable[[int, memoryview], object]
"""Writes bytes at an offset of the file."""


class WriteBuffer:
    """The buffer of one worker, for one contiguous run of bytes after another.

    A run starts with `begin`. `next` and `exactly` give out memory, which the caller fills before
    it asks for more. `flush` ends the run. Every call but `begin` may write, and raises the errors
    of the write function.
    """

    def __init__(self, nbytes: int) -> None:
        """Allocate a buffer of `nbytes`."""
        self._buffer = new_buffer(nbytes)
        self._write: Write = _refuse
        self._offset = 0
        self._filled = 0

    def begin(self, offset: int, write: Write) -> None:
        """Start a run; bytes of an earlier one that were not flushed are dropped.

        Args:
            offset: Where the run starts in the file, in bytes.
            write: Writes to that file.
        """
        self._write = write
        self._offset = offset
        self._filled = 0

    def next(self, limit: int) -> memoryview:
        """Return memory for the next bytes of the run: at least one, at most `limit`."""
        if self._filled == len(self._buffer):
            self.flush()
        return self._take(min(limit, len(self._buffer) - self._filled))

    def exactly(self, nbytes: int) -> memoryview:
        """Return memory for the next `nbytes` of the run, which must fit into the whole buffer."""
        if self._filled + nbytes > len(self._buffer):
            self.flush()
        return self._take(nbytes)

    def flush(self) -> None:
        """Write what the buffer holds; the run may continue after it."""
        data = self._buffer[: self._filled]
        if data:
            self._write(self._offset, data)
            self._offset += len(data)
            self._filled = 0

    def _take(self, nbytes: int) -> memoryview:
        memory = self._buffer[self._filled : self._filled + nbytes]
        self._filled += nbytes
        return memory


def _refuse(offset: int, data: memoryview) -> None:
    """Raise AssertionError: `begin` was not called."""
    raise AssertionError("begin was not called")

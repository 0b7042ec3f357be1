"""Read-ahead: the bytes of a file in order, with the next block read while one is used."""

from collections.abc import Callable
from concurrent.futures import Executor, Future, wait

from streamconv.system.buffers import new_buffer

Fill = Callable[[memoryview, int], int]
"""Fills a buffer from an offset of the file, and returns the bytes read: fewer only at its end."""


class ReadAhead:
    """A file that is read from its beginning to its end.

    It has two blocks. `reader` reads into one while the caller uses the other, so that disk and
    processor work at the same time.
    """

    def __init__(self, fill: Fill, block_bytes: int, reader: Executor) -> None:
        """Start to read. `fill` is called in a thread of `reader`."""
        self._fill = fill
        self._reader = reader
        self._idle = new_buffer(block_bytes)
        self._position = 0
        self._rest = memoryview(b"")
        self._coming = self._read(new_buffer(block_bytes))

    def read(self, most: int) -> memoryview:
        """Return the next bytes, at most `most`; none at the end of the file.

        They are valid until the next call. Raises what `fill` raises.
        """
        if not self._rest:
            self._rest = self._next_block()
        data, self._rest = self._rest[:most], self._rest[most:]
        return data

    def close(self) -> None:
        """Wait until the file is not read any more."""
        wait([self._coming])

    def _next_block(self) -> memoryview:
        block, count = self._coming.result()
        self._position += count
        if count == len(block):
            self._coming = self._read(self._idle)
            self._idle = block
        else:
            self._coming = Future()
            self._coming.set_result((block[:0], 0))
        return block[:count]

    def _read(self, block: memoryview) -> "Future[tuple[memoryview, int]]":
        position = self._position
        return self._reader.submit(lambda: (block, self._fill(block, position)))

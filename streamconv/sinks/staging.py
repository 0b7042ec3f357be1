"""A contiguous run of output on its way to the disk, through a few buffers and a writer.

While buffers are being written, the next one is filled; so reading and rearranging overlap
with writing even where one worker fills the only shard. Buffers lie to pages as the file does,
so that they can be written directly.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future

from streamconv.files import PAGE, aligned_buffer
from streamconv.memory import STAGING_BUFFERS

Write = Callable[[int, memoryview], object]
"""Writes bytes at an offset of the file."""


class Staging:
    """The buffers of one worker. A run is begun, filled by `reserve` and `commit`, and ended.

    What goes wrong in writing is raised by a later call, `drain` at the latest.
    """

    def __init__(self, nbytes: int, writer: Executor) -> None:
        """Buffers of `nbytes`, a multiple of a page, written by `writer`."""
        self._buffers = deque(aligned_buffer(nbytes) for _ in range(STAGING_BUFFERS))
        self._scratch = bytearray()
        self._writer = writer
        self._pending: deque[Future[object]] = deque()
        self._write: Write = _nowhere
        self._offset = 0
        self._begin = 0
        self._end = 0

    def begin(self, offset: int, write: Write) -> None:
        """Begin a run at `offset` of a file that `write` writes to."""
        self._write = write
        self._begin = self._end = offset % PAGE
        self._offset = offset

    def room(self, limit: int) -> memoryview:
        """Memory for the next bytes of the run: at least one, at most `limit`."""
        if self._end == len(self._buffers[0]):
            self._flush()
        return self._buffers[0][self._end : self._end + limit]

    def reserve(self, nbytes: int) -> memoryview:
        """Memory for exactly the next `nbytes` of the run, in the buffer where they fit."""
        room = self.room(nbytes)
        if len(room) == nbytes:
            return room
        if len(self._scratch) < nbytes:
            self._scratch = bytearray(nbytes)
        return memoryview(self._scratch)[:nbytes]

    def commit(self, data: memoryview) -> None:
        """Take what `room` or `reserve` gave, filled, as the next bytes of the run."""
        if data.obj is not self._scratch:
            self._end += len(data)
            return
        while data:
            room = self.room(len(data))
            room[:] = data[: len(room)]
            self._end += len(room)
            data = data[len(room) :]

    def end(self) -> None:
        """Hand what is left to the writer; the next run may begin meanwhile."""
        self._flush()

    def drain(self) -> None:
        """Wait until everything is written."""
        self._wait(0)

    def _flush(self) -> None:
        data = self._buffers[0][self._begin : self._end]
        if data:
            self._wait(len(self._buffers) - 2)
            self._pending.append(self._writer.submit(self._write, self._offset, data))
            self._offset += len(data)
            self._buffers.rotate(-1)
        self._begin = self._end = self._offset % PAGE

    def _wait(self, most: int) -> None:
        """Wait until at most so many writes are left to do."""
        while len(self._pending) > most:
            self._pending.popleft().result()


def _nowhere(offset: int, data: memoryview) -> None:
    raise AssertionError("no run has begun")

"""A limit of the rate at which a source is read, shared by all threads that read it."""

import threading
import time
from collections.abc import Callable, Sequence

from streamconv.checkpoint.types import OtherFile
from streamconv.sources.base import ByteRange, Read, Source
from streamconv.sources.wrappers.base import SourceWrapper
from streamconv.system.cancellation import CancelToken


class Throttle:
    """A clock that lets `rate` bytes pass a second. Idle time is not saved up for later."""

    def __init__(
        self,
        rate: int,
        cancel: CancelToken,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate = rate
        self._cancel = cancel
        self._clock = clock
        self._due = 0.0
        """When all bytes taken so far have passed, in seconds of the clock."""
        self._lock = threading.Lock()

    def take(self, nbytes: int) -> None:
        """Wait until `nbytes` more may have passed.

        Raises Interrupted if the run is canceled meanwhile.
        """
        with self._lock:
            now = self._clock()
            self._due = max(self._due, now) + nbytes / self._rate
            wait = self._due - now
        self._cancel.wait(wait)


class ThrottledSource(SourceWrapper):
    """A source whose reads return only when the rate limit allows for their bytes."""

    def __init__(self, source: Source, throttle: Throttle) -> None:
        super().__init__(source)
        self._throttle = throttle

    def read(self, reads: Sequence[Read]) -> None:
        super().read(reads)
        self._throttle.take(sum(len(read.buffer) for read in reads))

    def expect(self, ranges: Sequence[ByteRange]) -> None:
        """Do nothing: what is fetched ahead would not keep to the limit."""

    def read_other(self, other: OtherFile, buffer: memoryview, start: int) -> int:
        count = super().read_other(other, buffer, start)
        self._throttle.take(count)
        return count

"""A source that is read no faster than at a given rate, however many workers read it."""

import threading
import time
from collections.abc import Callable, Sequence

from streamconv.checkpoint.types import Checkpoint, OtherFile
from streamconv.sources.base import Read, Source
from streamconv.system.cancellation import CancelToken


class Throttle:
    """Bytes come due one behind the other, at `rate` a second; nothing is saved up while idle."""

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
        self._lock = threading.Lock()

    def take(self, nbytes: int) -> None:
        """Wait until `nbytes` more may have been read. Raises Interrupted when the run ends."""
        with self._lock:
            now = self._clock()
            self._due = max(self._due, now) + nbytes / self._rate
            wait = self._due - now
        self._cancel.wait(wait)


class ThrottledSource:
    """`source`, held back."""

    def __init__(self, source: Source, throttle: Throttle) -> None:
        self._source = source
        self._throttle = throttle

    @property
    def checkpoint(self) -> Checkpoint:
        return self._source.checkpoint

    def read(self, reads: Sequence[Read]) -> None:
        self._source.read(reads)
        self._throttle.take(sum(len(read.buffer) for read in reads))

    def read_other(self, other: OtherFile, buffer: memoryview, start: int) -> int:
        count = self._source.read_other(other, buffer, start)
        self._throttle.take(count)
        return count

    def check_unchanged(self) -> None:
        self._source.check_unchanged()

    def close(self) -> None:
        self._source.close()

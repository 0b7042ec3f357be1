"""A source whose next reads are announced to it in a thread of their own.

A disk that is asked for more than fits into its queue makes the caller wait for some of the
answers. So no worker asks it.
"""

import contextlib
import queue
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from streamconv.sources.base import ByteRange, Source, expect
from streamconv.sources.wrappers.base import SourceWrapper


class FetchAhead(SourceWrapper):
    """A source whose `expect` returns at once. A context manager: the thread ends with it."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._asked: queue.SimpleQueue[Sequence[ByteRange]] = queue.SimpleQueue()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._pass_on, name="fetch-ahead", daemon=True)

    def expect(self, ranges: Sequence[ByteRange]) -> None:
        if ranges:
            self._asked.put(ranges)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ends.set()
        self._asked.put(())
        self._thread.join()

    def _pass_on(self) -> None:
        """Pass everything to the source, in order, until the context ends."""
        while True:
            ranges = self._asked.get()
            if self._ends.is_set():
                return
            # any error comes again when the bytes are read
            with contextlib.suppress(Exception):
                expect(self._source, ranges)

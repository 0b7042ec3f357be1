"""The base of all wrappers around a source."""

from collections.abc import Sequence

from streamconv.checkpoint.types import Checkpoint, OtherFile
from streamconv.sources.base import ByteRange, MappedSource, Read, Source, expect


class SourceWrapper:
    """A source that forwards every call to the source that it wraps.

    A subclass overrides only what it changes. Closing the wrapper closes the wrapped source.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._mapped = source if isinstance(source, MappedSource) else None

    @property
    def checkpoint(self) -> Checkpoint:
        return self._source.checkpoint

    def read(self, reads: Sequence[Read]) -> None:
        self._source.read(reads)

    def read_other(self, other: OtherFile, buffer: memoryview, start: int) -> int:
        return self._source.read_other(other, buffer, start)

    def mapped(self, ranges: Sequence[ByteRange]) -> memoryview | None:
        return self._mapped.mapped(ranges) if self._mapped else None

    def expect(self, ranges: Sequence[ByteRange]) -> None:
        expect(self._source, ranges)

    def check_file(self, name: str) -> None:
        if self._mapped:
            self._mapped.check_file(name)
        elif not self.checkpoint.remote:
            self._source.check_unchanged()

    def check_unchanged(self) -> None:
        self._source.check_unchanged()

    def close(self) -> None:
        self._source.close()

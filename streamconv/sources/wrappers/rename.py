"""A source whose tensors have other names, as the user asked for with `--rename`."""

from collections.abc import Mapping, Sequence

from streamconv.checkpoint.types import Checkpoint
from streamconv.checkpoint.user_renames import UserRename, rename_tensors
from streamconv.sources.base import ByteRange, Read, Source
from streamconv.sources.wrappers.base import SourceWrapper


class RenamedSource(SourceWrapper):
    """A source that is asked for tensors by other names than it stores them under."""

    def __init__(self, source: Source, checkpoint: Checkpoint, stored: Mapping[str, str]) -> None:
        super().__init__(source)
        self._checkpoint = checkpoint
        self._stored = stored

    @property
    def checkpoint(self) -> Checkpoint:
        return self._checkpoint

    def read(self, reads: Sequence[Read]) -> None:
        super().read(
            [
                Read(read.info._replace(name=self._stored[read.info.name]), read.start, read.buffer)
                for read in reads
            ]
        )

    def expect(self, ranges: Sequence[ByteRange]) -> None:
        super().expect(
            [
                ByteRange(r.info._replace(name=self._stored[r.info.name]), r.begin, r.end)
                for r in ranges
            ]
        )


def with_renames(source: Source, renames: Sequence[UserRename]) -> Source:
    """Return a source with its tensors renamed; the source itself if there are no renames.

    Raises UsageError if a rename changes no name, or if two tensors get one name.
    """
    if not renames:
        return source
    return RenamedSource(source, *rename_tensors(source.checkpoint, renames))

"""The contract of a source: a checkpoint that is opened once and then read by offset.

Opening reads headers and JSON, never tensor data. `tests/unit/sources/test_sources.py` checks the
contract for every kind of source.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

from streamconv.checkpoint.types import Checkpoint, OtherFile, TensorInfo


@dataclass(frozen=True, slots=True)
class Read:
    """A request for the bytes of a tensor from `start` on, as many as `buffer` holds."""

    info: TensorInfo
    """A tensor of the source's checkpoint."""
    start: int
    """Bytes from the first byte of the tensor. `start + len(buffer)` is at most `info.nbytes`."""
    buffer: memoryview
    """Writable and contiguous, one byte an item."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `begin` to `end` of a tensor."""

    info: TensorInfo
    begin: int
    end: int


class Source(Protocol):
    """A checkpoint that can be read.

    Several threads may call `read` and `read_other` at the same time. `check_unchanged` and
    `close` are called by one thread, when no read is under way.
    """

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint as its headers describe it; still there after `close`."""

    def read(self, reads: Sequence[Read]) -> None:
        """Fill the buffer of every read.

        The reads of a batch may be done in any order, and adjacent ones as one. If an error is
        raised, the content of all buffers of the batch is undefined.

        Raises:
            SourceChanged: A file is no longer what it was when the source was opened.
            BadCheckpoint: The files may no longer be read, or contradict what their headers said.
            IOFailed: Reading failed, for a remote source after all retries.
            Interrupted: The run was canceled.
        """

    def read_other(self, other: OtherFile, buffer: memoryview, start: int) -> int:
        """Read bytes of a file that holds no tensors.

        Args:
            other: One of `checkpoint.others` that is a file.
            buffer: Filled from its beginning.
            start: Bytes from the beginning of the file.

        Returns:
            The number of bytes read: `len(buffer)`, fewer at the end of the file, 0 after it.

        Raises:
            SourceChanged, BadCheckpoint, IOFailed, Interrupted: As `read` does.
        """

    def check_unchanged(self) -> None:
        """Check that every file that was read is still what it was when the source was opened.

        A source that cannot change, such as a commit of a repository, has nothing to check. A file
        that is open is read whole even if its name is removed or given to another one meanwhile,
        and then a result may be all that is left of it: that is no error.

        Raises:
            SourceChanged: A file was changed. If it is not open now, it may have been replaced.
            IOFailed: The file system or the server does not answer.
        """

    def close(self) -> None:
        """Release all files and connections. Closing twice is allowed, reading afterward is not.

        Never raises.
        """


def read_whole(source: Source) -> Callable[[TensorInfo], bytes]:
    """Return a function that reads all bytes of a small tensor of a source."""

    def read(info: TensorInfo) -> bytes:
        buffer = memoryview(bytearray(info.nbytes))
        source.read([Read(info, 0, buffer)])
        return bytes(buffer)

    return read


@runtime_checkable
class MappedSource(Source, Protocol):
    """A source whose files are on this machine and can be mapped into memory."""

    def mapped(self, ranges: Sequence[ByteRange]) -> memoryview | None:
        """Return a view of bytes of tensors, one range after the other, in a private map, or None.

        The view outlives the source. Writing to it does not change a file.

        Args:
            ranges: Bytes of tensors of the source's checkpoint that have the same dtype.

        Returns:
            The view; None if the bytes are not stored like this, or not where maps can join them.

        Raises:
            SourceChanged, BadCheckpoint, IOFailed: As `read` does.
        """

    def check_file(self, name: str) -> None:
        """Check that one file that was read is what it was, and that its name leads to it.

        Raises what `check_unchanged` does.
        """


@runtime_checkable
class ExpectingSource(Source, Protocol):
    """A source that fetches what is announced to it before it is read."""

    def expect(self, ranges: Sequence[ByteRange]) -> None:
        """Start to fetch what is read soon, without waiting for it.

        Several threads may call it. It never raises: what goes wrong shows when it is read.

        Args:
            ranges: Bytes of tensors of the source's checkpoint, in the order of their reading.
        """


def merged(ranges: Sequence[ByteRange]) -> Iterator[tuple[str, int, int]]:
    """Yield file, begin and end of ranges in the order of the files; adjacent ones as one."""
    places = ((r.info.file, r.info.offset + r.begin, r.info.offset + r.end) for r in ranges)
    last: tuple[str, int, int] | None = None
    for name, begin, end in sorted(places):
        if last is not None and (last[0], last[2]) == (name, begin):
            last = name, last[1], end
            continue
        if last is not None:
            yield last
        last = name, begin, end
    if last is not None:
        yield last


def expect(source: Source, ranges: Sequence[ByteRange]) -> None:
    """Tell a source which ranges are read soon, if it has `expect`."""
    if _expects(type(source)):
        cast(ExpectingSource, source).expect(ranges)


@functools.cache
def _expects(kind: type) -> bool:
    """Return True if the sources of a class have `expect`; `isinstance` takes 0.1 ms a call."""
    return hasattr(kind, "expect")

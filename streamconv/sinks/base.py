"""The two protocols of an output: a sink, and the open output that it returns.

A sink only checks. `prepare` reserves the target and returns an open output, which workers fill
piece by piece, in any order. It ends with one of `commit`, `release` and `abort`.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from streamconv.planning.plan import Piece, Plan
from streamconv.sinks.journal import Finished
from streamconv.sources.base import Source


@dataclass(frozen=True, slots=True)
class HashStarted:
    """The files of the result are about to be read back, for their SHA-256."""

    total: int
    """Bytes of all files."""


@dataclass(frozen=True, slots=True)
class HashProgress:
    """Some bytes have been read back."""

    nbytes: int
    """Bytes read since the last event."""
    where: str
    """The file that they belong to."""


HashEvent = HashStarted | HashProgress


class OpenOutput(Protocol):
    """An output that is being written. `write` and `record_digest` are safe to call from threads.

    After `complete`, only `commit` and `abort` may follow.
    """

    @property
    def finished(self) -> Mapping[int, Finished]:
        """The shards that are durable, by number; at first those of earlier runs."""

    def save_request(self, request: bytes) -> None:
        """Save the request of the conversion, until the commit, for `streamconv finish`.

        Raises NoSpace or IOFailed.
        """

    def record_digest(self, piece: Piece, digest: str) -> None:
        """Record the digest of a piece, before its last bytes are written.

        Args:
            piece: The piece; the digest is that of all its bytes.
            digest: Its XXH3-128, in hexadecimal.
        """

    def write(self, shard: int, offset: int, data: memoryview) -> bool:
        """Write contiguous bytes of a shard. No byte may be written twice.

        Args:
            shard: The number of the shard in the plan.
            offset: Bytes from the start of its file.
            data: The bytes; they may be reused on return.

        Returns:
            True if these were the last missing bytes: the shard is durable and recorded.

        Raises:
            NoSpace: The disk, the quota or the file size limit is exhausted.
            IOFailed: Writing failed otherwise.
        """

    def release(self) -> None:
        """Keep the finished shards and let go of the target: another part commits it."""

    def complete(self, source: Source) -> Generator[HashEvent, None, Path]:
        """Add everything that is not a shard: copied files, index, manifest.

        Yields:
            The progress of reading the files back, if their SHA-256 was asked for.

        Returns:
            The folder that holds the complete and durable result.

        Raises:
            OutputExists: A shard is not finished.
            SourceChanged: The source is not what it was when the plan was made.
            NoSpace: The disk, the quota or the file size limit is exhausted.
            IOFailed: Reading or writing failed.
        """

    def commit(self) -> None:
        """Make the complete result appear at the target. Raises IOFailed."""

    def abort(self, *, keep: bool = True) -> None:
        """Remove everything but finished shards; without `keep`, remove those too."""


class Sink(Protocol):
    """A place that a conversion can write to."""

    def prepare(self, plan: Plan) -> OpenOutput:
        """Check everything that can be known before the first byte, and reserve the target.

        If this fails, nothing has to be aborted.

        Raises:
            OutputExists: The target may not be replaced, or another run is working on it.
            NoSpace: The disk has too little room.
            IOFailed: The target cannot be written to.
        """

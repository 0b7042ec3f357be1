"""Where conversions go. A sink is prepared, filled piece by piece in any order, and committed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from streamconv.planning.plan import Piece, Plan
from streamconv.sinks.journal import Finished
from streamconv.sources.base import Source


class Sink(Protocol):
    """What a conversion writes to. `write` is safe to use from several threads at once."""

    def prepare(self, plan: Plan) -> Mapping[int, Finished]:
        """Check everything that can be known before the first byte, and take the place.

        Returns the shards that are finished already, by number. Raises OutputExists, NoSpace or
        IOFailed.
        """

    def record_digest(self, piece: Piece, digest: str) -> None:
        """The digest of a piece; told before the last of its bytes is written."""

    def write(self, shard: int, offset: int, data: memoryview) -> bool:
        """Write a run of a shard's bytes; true where it was the last one missing.

        The shard is finished then: durable, and known to be. Raises NoSpace or IOFailed.
        """

    def release(self) -> None:
        """Let go of the place with what is finished in it: another part of the run commits it."""

    def complete(self, source: Source) -> Path:
        """Add all that is not a shard; returns the folder in which the result is whole, durable.

        Raises NoSpace, IOFailed, or SourceChanged.
        """

    def commit(self) -> None:
        """Let the complete result appear at its place. Raises IOFailed."""

    def abort(self, *, keep: bool = True) -> None:
        """Leave nothing behind but finished shards, and not even those unless `keep`."""

"""Where conversions go. A sink is prepared, filled piece by piece in any order, and committed."""

from collections.abc import Sequence
from typing import Protocol

from streamconv.plan import Plan
from streamconv.sources import Source


class Sink(Protocol):
    """What a conversion writes to. `write` is safe to use from several threads at once."""

    def prepare(self, plan: Plan) -> None:
        """Check everything that can be known before the first byte, and take the place.

        Raises OutputExists, NoSpace or IOFailed.
        """

    def write(self, shard: int, offset: int, data: memoryview) -> bool:
        """Write a run of a shard's bytes; true where it was the last one missing.

        The shard is durable then. Raises NoSpace or IOFailed.
        """

    def commit(self, source: Source, digests: Sequence[Sequence[str]]) -> None:
        """Add all that is not a shard and let the result appear, whole, at its place.

        `digests` are those of each shard's pieces, in order.
        """

    def abort(self) -> None:
        """Leave nothing behind."""

"""The events of a conversion, in the order in which they happen."""

from dataclasses import dataclass
from pathlib import Path

from streamconv.planning.plan import Piece, Plan
from streamconv.sinks.base import HashProgress, HashStarted


@dataclass(frozen=True, slots=True)
class Planned:
    """The plan is made; nothing has been written yet."""

    plan: Plan
    """What is going to be written."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The target is locked; finished shards of an earlier run are kept."""

    plan: Plan
    """What is going to be written."""
    finished: frozenset[int]
    """Numbers of the shards that an earlier run has finished."""
    missing: tuple[int, ...]
    """Numbers of the shards that this process writes."""

    @property
    def left_bytes(self) -> int:
        """Bytes of the missing shards."""
        return sum(self.plan.shards[number].nbytes for number in self.missing)

    def __repr__(self) -> str:
        kept, of = len(self.finished), len(self.plan.shards)
        return f"<Prepared: {kept} of {of} shards are finished, {len(self.missing)} to write>"


@dataclass(frozen=True, slots=True)
class PieceWritten:
    """A piece is written; it is durable once its shard is finished."""

    piece: Piece
    """Its shard, offset and size."""
    digest: str
    """Its xxh3-128, as hex digits."""


@dataclass(frozen=True, slots=True)
class ShareWritten:
    """Every shard that this process writes is durable."""


@dataclass(frozen=True, slots=True)
class Completed:
    """The whole result is durable, but not yet at the target."""

    folder: Path
    """The folder that the commit moves to the target."""


@dataclass(frozen=True, slots=True)
class Committed:
    """The result is at the target."""


Event = (
    Planned
    | Prepared
    | PieceWritten
    | ShareWritten
    | HashStarted
    | HashProgress
    | Completed
    | Committed
)

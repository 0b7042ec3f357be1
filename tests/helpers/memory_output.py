"""A sink in memory, which keeps a log of what is done to it."""

from collections.abc import Generator
from pathlib import Path

from streamconv.planning.plan import Piece, Plan
from streamconv.sinks.base import HashEvent
from streamconv.sinks.journal import Finished
from streamconv.sources.base import Source


class MemorySink:
    """A sink and its open output: the bytes of every shard, by number."""

    def __init__(self, finished: dict[int, Finished] | None = None) -> None:
        self.finished = finished or {}
        self.shards: dict[int, bytearray] = {}
        self.digests: dict[tuple[int, int], str] = {}
        """The digest of every piece, by shard and offset."""
        self.calls: list[str] = []
        """The name of every call, but for those of pieces and bytes."""
        self.requests: list[bytes] = []
        self.complete_error: BaseException | None = None
        """Raised by `complete`."""

    def prepare(self, plan: Plan) -> "MemorySink":
        self.calls.append("prepare")
        self.shards = {n: bytearray(shard.nbytes) for n, shard in enumerate(plan.shards)}
        return self

    def save_request(self, request: bytes) -> None:
        self.requests.append(request)

    def record_digest(self, piece: Piece, digest: str) -> None:
        self.digests[piece.shard, piece.offset] = digest

    def write(self, shard: int, offset: int, data: memoryview) -> bool:
        self.shards[shard][offset : offset + len(data)] = data
        return False

    def release(self) -> None:
        self.calls.append("release")

    def complete(self, source: Source) -> Generator[HashEvent, None, Path]:
        yield from ()
        self.calls.append("complete")
        if self.complete_error is not None:
            raise self.complete_error
        return Path("complete")

    def commit(self) -> None:
        self.calls.append("commit")

    def abort(self, *, keep: bool = True) -> None:
        self.calls.append(f"abort, keep={keep}")

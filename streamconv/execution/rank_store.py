"""The messages between the ranks of a run, in the key-value store that torchrun keeps.

A rank writes its own entries and counts itself in shared counters; everyone reads all of them.
Only the first failure is kept, so that all ranks end with the same one.
"""

import enum
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from streamconv.errors import BadCheckpoint, RankFailed, quoted
from streamconv.formats.strict_json import parse_json_object
from streamconv.system import launcher

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store


class RankEntry(enum.StrEnum):
    """The entries that each rank has of its own."""

    PROCESS = "who"
    """Process and host, for messages."""
    HEARTBEATS = "beat"
    """The number of its heartbeats so far."""
    FINGERPRINT = "plan"
    """The fingerprint of its plan."""
    LEFT = "left"
    """Above zero once it has left the group as intended."""

    def key(self, rank: int) -> str:
        """Return the key of a rank's entry."""
        return f"{self.value}/{rank}"


class Counter(enum.StrEnum):
    """The number of ranks that have reached a point of the run."""

    CONNECTED = "connected"
    """Has a connection to the next rank, or has given up on one."""
    PREPARED = "prepared"
    """Has prepared the target."""
    PLACED = "placed"
    """Has found the lock of rank 0 next to the target: all others."""
    WRITTEN = "written"
    """Has made every shard of its share durable."""
    COMMITTED = "committed"
    """Has committed the result: rank 0 alone."""
    FAILURE_READ = "heard"
    """Has read the failure."""


FAILURE = "failed"
"""The key of the first failure."""
LOCK = "lock"
"""The key of what rank 0 has written into its lock, next to the target."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The failure of a rank, as it is stored."""

    rank: int
    message: str
    hint: str = ""


class RankStore:
    """The store, seen by rank `rank` of `size`.

    Its methods raise RuntimeError if the store is lost; see `map_store_errors`.
    """

    def __init__(self, store: "Store", rank: int, size: int) -> None:
        self._store = store
        self._rank = rank
        self._size = size

    def join(self) -> None:
        """Say which process this rank is, and give the first heartbeat."""
        process = f"process {os.getpid()} on {quoted(platform.node())}"
        self._store.set(RankEntry.PROCESS.key(self._rank), process)
        self.beat()

    def leave(self) -> None:
        """Say that this rank has left, so that its silence is not taken for a failure."""
        self._store.add(RankEntry.LEFT.key(self._rank), 1)

    def beat(self) -> None:
        """Give a heartbeat."""
        self._store.add(RankEntry.HEARTBEATS.key(self._rank), 1)

    def heartbeats(self, rank: int) -> int:
        """Return the number of heartbeats of a rank: 0 if it has not joined yet."""
        return self._store.add(RankEntry.HEARTBEATS.key(rank), 0)

    def has_left(self, rank: int) -> bool:
        """Return True if a rank has left as intended."""
        return self._store.add(RankEntry.LEFT.key(rank), 0) > 0

    def process(self, rank: int) -> str:
        """Return process and host of a rank, for messages."""
        key = RankEntry.PROCESS.key(rank)
        return self._store.get(key).decode() if self._store.check([key]) else "never seen"

    def publish_fingerprint(self, fingerprint: str) -> None:
        """Say which plan this rank has made."""
        self._store.set(RankEntry.FINGERPRINT.key(self._rank), fingerprint)

    def fingerprint(self, rank: int) -> str:
        """Return the fingerprint of the plan of a rank that has published one."""
        return self._store.get(RankEntry.FINGERPRINT.key(rank)).decode()

    def have_all_planned(self) -> bool:
        """Return True if every rank has published a fingerprint."""
        return self._store.check([RankEntry.FINGERPRINT.key(rank) for rank in range(self._size)])

    def unplanned(self) -> list[int]:
        """Return the ranks that have not published a fingerprint."""
        return [
            rank
            for rank in range(self._size)
            if not self._store.check([RankEntry.FINGERPRINT.key(rank)])
        ]

    def publish_lock(self, content: bytes) -> None:
        """Say what rank 0 has written into its lock."""
        self._store.set(LOCK, content.decode("ascii", "replace"))

    def lock(self) -> bytes:
        """Return what rank 0 has written into its lock, once it has said so."""
        return bytes(self._store.get(LOCK))

    def increment(self, counter: Counter) -> None:
        """Count this rank."""
        self._store.add(counter.value, 1)

    def count(self, counter: Counter) -> int:
        """Return the number of ranks that have been counted."""
        return self._store.add(counter.value, 0)

    def publish_failure(self, failure: Failure) -> None:
        """Say that a rank has failed, unless another failure was published before."""
        self._store.compare_set(FAILURE, "", json.dumps(asdict(failure)))

    def has_failure(self) -> bool:
        """Return True if a rank has failed."""
        return self._store.check([FAILURE])

    def failure(self) -> Failure:
        """Return the failure that was published."""
        try:
            fields = parse_json_object(self._store.get(FAILURE), "failure", half_characters=True)
            return Failure(int(fields["rank"]), str(fields["message"]), str(fields["hint"]))
        except (BadCheckpoint, KeyError, TypeError, ValueError):
            return Failure(0, "the store that torchrun keeps has something else in its place")


def open_store(seconds: float) -> "Store":
    """Return a new client of the store that torchrun keeps for the ranks that it started together.

    Raises an error of torch if that takes longer than `seconds`.
    """
    from torch._C._distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(iter(rendezvous("env://", timeout=timedelta(seconds=seconds))))
    return PrefixStore(f"streamconv/{launcher.run_id()}/{launcher.restart_count()}", store)


@contextmanager
def map_store_errors() -> Iterator[None]:
    """Raise RankFailed instead of the error of a store whose torchrun has ended."""
    try:
        yield
    except RuntimeError as error:
        first_line = str(error).partition("\n")[0]
        raise RankFailed(
            f"cannot reach the other ranks: the store that torchrun keeps is lost: {first_line}",
            f"check if torchrun has ended on {launcher.store_host()}, or if the host is gone",
        ) from error

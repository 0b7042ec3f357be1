"""Several processes that share one conversion, started by torchrun.

All ranks see the same file system. Each makes the same plan and writes the shards of its share;
rank 0 prepares the target first, and commits when all shards are written. They agree on that
through the store of torchrun (`rank_store`), as the sequence diagram in docs/architecture.md shows.
The others write only where they find the lock that rank 0 has made: the target may be a path on a
disk of each host.

Each rank watches the next one, by a connection and by heartbeats (`liveness`). A rank that fails,
or finds another one dead, publishes the failure, and all ranks end with its name and reason.

Collectives of gloo, such as a barrier, are not used. They would wait for a rank that plans or
writes for hours, and react neither to signals nor to a failure meanwhile. If a rank never comes,
`monitored_barrier` says so to rank 0 alone.
"""

import functools
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from streamconv.errors import (
    Interrupted,
    IOFailed,
    PlanRefused,
    quoted,
)
from streamconv.execution.events import (
    Committed,
    Event,
    PieceWritten,
    Planned,
    Prepared,
    ShareWritten,
)
from streamconv.execution.liveness import CONNECT_SECONDS, Connection, Watch
from streamconv.execution.rank_failures import POLL_SECONDS, RankFailures
from streamconv.execution.rank_store import (
    Counter,
    RankStore,
    map_store_errors,
    open_store,
)
from streamconv.planning.manifest import fingerprint
from streamconv.planning.partition import Partition
from streamconv.system import launcher
from streamconv.system.cancellation import CancelToken
from streamconv.system.deadline import within
from streamconv.verification.result import ProgressEvent

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

STORE_SECONDS = 20.0
"""How long the store of torchrun may take to answer: torchrun opens it before it starts a rank."""
STORE_SPARE_SECONDS = 8.0
"""How much longer torch may take to give up. It waits without end for a server that is no store."""
PLAN_SECONDS = 300.0
"""How long the ranks wait for each other to start, and to plan."""
LOCK_SECONDS = 65.0
"""How long a host may take to see the lock of another one: NFS looks again after at most 60 s."""


def connect(cancel: CancelToken, read_lock: Callable[[], bytes]) -> "RankGroup":
    """Return this process's place in the group of ranks.

    Args:
        cancel: Set when a rank fails.
        read_lock: Returns what rank 0 has written into its lock, as this host sees it.

    Raises:
        IOFailed: The store of torchrun cannot be reached.
        Interrupted: The run was canceled.
    """
    try:
        import torch.distributed.rendezvous  # noqa: F401 - takes long on a cold disk

        seconds = STORE_SECONDS + STORE_SPARE_SECONDS
        store = within(seconds, functools.partial(open_store, STORE_SECONDS), cancel)
    except Interrupted:
        raise
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        raise IOFailed(
            f"cannot reach the other ranks: the store that torchrun keeps does not answer within "
            f"{STORE_SECONDS:.0f} s: {quoted(first_line)}",
            f"check if torchrun has ended on {launcher.store_host()}, or if the host is gone",
        ) from error
    return RankGroup(
        store,
        launcher.rank() or 0,
        launcher.world_size(),
        cancel,
        read_lock=read_lock,
        open_another=functools.partial(open_store, CONNECT_SECONDS),
        restarted=launcher.restart_count() > 0,
    )


class RankGroup:
    """This process among the ranks of a run. A context: heartbeats are sent inside it."""

    def __init__(
        self,
        store: "Store",
        rank: int,
        size: int,
        cancel: CancelToken,
        *,
        read_lock: Callable[[], bytes] = lambda: b"",
        open_another: "Callable[[], Store] | None" = None,
        restarted: bool = False,
    ) -> None:
        """Describe the group.

        Args:
            store: What the ranks share.
            rank: The number of this process, from 0.
            size: The number of ranks.
            cancel: Set when a rank fails.
            read_lock: Returns what rank 0 has written into its lock, as this host sees it.
            open_another: Returns another client of the store, if two threads cannot share one.
            restarted: True if torchrun has started all ranks again after a failure.
        """
        self.partition = Partition(rank + 1, size)
        self.restarted = restarted
        self._store = RankStore(store, rank, size)
        self._rank = rank
        self._size = size
        self._read_lock = read_lock
        other = (rank + 1) % size
        self._connection = Connection(open_another or (lambda: store), rank, size, other)
        self._watch = Watch(self._store, other, self._connection, cancel)
        self.failures = RankFailures(self._store, self._watch, rank, size)

    def __enter__(self) -> "RankGroup":
        with map_store_errors():
            self._store.join()
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.stop()
        with suppress(Exception):
            self._store.leave()
        self._connection.close()

    def synchronize(self, event: Event | ProgressEvent) -> None:
        """Tell the other ranks about an event, and wait for them if the run may not go further.

        Raises:
            PlanRefused: The ranks have made different plans.
            RankFailed: A rank has failed.
            IOFailed: A rank has not planned in time, or has another file system at the target.
        """
        with map_store_errors():
            if isinstance(event, Planned):
                self._agree_on_plan(fingerprint(event.plan))
                self._connect_to_next()
                if self._rank:
                    self._wait_for_count(Counter.PREPARED, 1)
                    self._check_place()
                    self._store.increment(Counter.PLACED)
            elif isinstance(event, Prepared):
                if self._rank == 0:
                    self._store.publish_lock(self._read_lock())
                self._store.increment(Counter.PREPARED)
                if self._rank == 0:  # no rank writes before all have found the place
                    self._wait_for_count(Counter.PLACED, self._size - 1)
            elif isinstance(event, PieceWritten):
                self.failures.raise_first()
            elif isinstance(event, ShareWritten):
                self._store.increment(Counter.WRITTEN)
                if self._rank:
                    self._wait_for_count(Counter.COMMITTED, 1)
                else:
                    self._wait_for_count(Counter.WRITTEN, self._size)
            elif isinstance(event, Committed):
                self._store.increment(Counter.COMMITTED)

    def _agree_on_plan(self, mine: str) -> None:
        """Wait for the plans of all ranks. Raises PlanRefused if they differ."""
        self._store.publish_fingerprint(mine)
        begin = time.monotonic()
        while not self._store.have_all_planned():
            self.failures.raise_first()
            if time.monotonic() - begin > PLAN_SECONDS:
                missing = self._store.unplanned()
                unseen = [rank for rank in missing if not self._store.heartbeats(rank)]
                raise IOFailed(
                    f"cannot start: the ranks {missing} have not made their plan after "
                    f"{PLAN_SECONDS:.0f} s; of these, {unseen or 'none'} have never started",
                    "check that torchrun has started on every host",
                )
            time.sleep(POLL_SECONDS)
        first = self._store.fingerprint(0)
        for rank in range(1, self._size):
            if (other := self._store.fingerprint(rank)) != first:
                raise PlanRefused(
                    f"cannot share the conversion: rank {rank} ({self._store.process(rank)}) has "
                    f"made another plan than rank 0: fingerprint {other}, not {first}",
                    "give all hosts the same options, and the same source",
                )

    def _check_place(self) -> None:
        """Check that this rank finds the lock that rank 0 has made next to the target.

        Raises IOFailed if it does not, or finds another one: nothing has been written yet.
        """
        wanted = self._store.lock()
        deadline = time.monotonic() + LOCK_SECONDS
        while self._read_lock() != wanted:
            self.failures.raise_first()
            if time.monotonic() > deadline:
                raise IOFailed(
                    f"cannot share the conversion: rank {self._rank} "
                    f"({self._store.process(self._rank)}) does not see what rank 0 "
                    f"({self._store.process(0)}) has made next to the target: the path leads to "
                    "another folder there",
                    "name a target on a file system that all hosts share",
                )
            time.sleep(POLL_SECONDS)

    def _connect_to_next(self) -> None:
        """Open the connection that breaks if the next rank dies; wait until all have theirs."""
        self._connection.open()
        self._wait(self._connection.settled.is_set)
        self._store.increment(Counter.CONNECTED)
        # a rank that ended earlier would break what the others are about to open
        self._wait_for_count(Counter.CONNECTED, self._size)

    def _wait_for_count(self, counter: Counter, count: int) -> None:
        self._wait(lambda: self._store.count(counter) >= count)

    def _wait(self, is_done: Callable[[], bool]) -> None:
        """Wait without a limit: a rank may work for hours. Raises RankFailed if one fails."""
        while not is_done():
            self.failures.raise_first()
            time.sleep(POLL_SECONDS)

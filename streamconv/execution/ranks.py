"""Several processes at one conversion, started by torchrun: who does what, and who has failed.

The ranks share a file system and torch.distributed. Each makes the same plan, writes the shards of
its part, and says so in the store that torchrun keeps; rank 0 closes the output when all have. Each
watches that the next one lives, by gloo's connection to it and by its beats in the store. Whoever
fails, or finds another dead, says it there, and all others end with that name and reason.

Nothing is agreed on or waited for by gloo's collectives: they would wait for a rank that plans, or
writes for hours, and no signal is heard in them and no word of a failure. Of a rank that never
comes a `monitored_barrier` tells rank 0 alone, and nobody why.
"""

import functools
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from streamconv.errors import (
    Interrupted,
    IOFailed,
    PlanRefused,
    RankFailed,
    StreamconvError,
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
from streamconv.execution.liveness import CONNECT_SECONDS, Connection, Heartbeat
from streamconv.planning.manifest import fingerprint
from streamconv.planning.partition import Partition
from streamconv.system import launcher
from streamconv.system.cancellation import CancelToken
from streamconv.verification.result import VerifyProgress, VerifyStarted

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

BEAT_SECONDS = 0.5
JOIN_SECONDS = 300.0
"""How long the ranks wait for each other to plan."""
HEARD_SECONDS = 5.0
"""How long a rank that fails waits for the others to hear of it, before it takes them along."""
KILLED_SECONDS = 5.0
"""How long a rank that is told to end waits for word of another's death, which may be behind it."""
POLL_SECONDS = 0.05


def connect(cancel: CancelToken) -> "RankGroup":
    """Meet the other ranks; `cancel` is set when one fails.

    Raises IOFailed where their store cannot be reached.
    """
    try:
        store = _met(JOIN_SECONDS)
    except Exception as error:
        raise IOFailed(f"the other ranks cannot be met: {error}") from error
    another = functools.partial(_met, CONNECT_SECONDS)
    return RankGroup(
        store,
        launcher.rank() or 0,
        launcher.world_size(),
        cancel,
        another=another,
        restarted=launcher.restart_count() > 0,
    )


def _met(seconds: float) -> "Store":
    """A client of the store that torchrun keeps for the ranks that it has started together."""
    from torch._C._distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(iter(rendezvous("env://", timeout=timedelta(seconds=seconds))))
    return PrefixStore(f"streamconv/{launcher.run_id()}/{launcher.restart_count()}", store)


class RankGroup:
    """This process among the others. Used as a context; hears the events of its run."""

    def __init__(
        self,
        store: "Store",
        rank: int,
        size: int,
        cancel: CancelToken,
        *,
        another: "Callable[[], Store] | None" = None,
        restarted: bool = False,
    ) -> None:
        """`another` opens the same store for another thread, where one client cannot serve two."""
        self.partition = Partition(rank + 1, size)
        self.restarted = restarted
        """Whether the launcher has started all ranks anew after a failure."""
        self._store = store
        self._rank = rank
        self._size = size
        self._cancel = cancel
        self._next = (rank + 1) % size
        self._connection = Connection(another or (lambda: store), rank, size, self._next)
        self._told_to_end = False
        self._lost: RuntimeError | None = None
        self._over = threading.Event()
        self._pulse = threading.Thread(target=self._beat, name="pulse", daemon=True)

    def __enter__(self) -> "RankGroup":
        me = f"process {os.getpid()} on {quoted(platform.node())}"
        with _store_reached():
            self._store.set(f"who/{self._rank}", me)
            self._store.add(f"beat/{self._rank}", 1)
        self._pulse.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._pulse.join()
        with suppress(Exception):
            self._store.add(f"left/{self._rank}", 1)
        self._connection.close()

    def synchronize(self, event: Event | VerifyStarted | VerifyProgress) -> None:
        """Do what the others have to know or be waited for at this point of the run."""
        with _store_reached():
            self._synchronize(event)

    def _synchronize(self, event: Event | VerifyStarted | VerifyProgress) -> None:
        if isinstance(event, Planned):
            self._agree(fingerprint(event.plan))
            self._connect()
            if self._rank:
                self._wait("rank 0 has not taken the place", lambda: self._count("prepared") > 0)
        elif isinstance(event, Prepared):
            self._store.add("prepared", 1)
        elif isinstance(event, PieceWritten):
            self._check()
        elif isinstance(event, ShareWritten):
            self._store.add("written", 1)
            if self._rank:
                self._wait("", lambda: self._count("committed") > 0)
            else:
                self._wait("", lambda: self._count("written") == self._size)
        elif isinstance(event, Committed):
            self._store.add("committed", 1)

    def report_failure(self, error: BaseException) -> BaseException:
        """Tell the others why this rank ends; returns what it ends with itself.

        That is another rank's failure, where one is known or found to be behind this one.
        """
        if isinstance(error, RankFailed):
            return error
        if isinstance(error, Interrupted):
            self._told_to_end = True
            deadline = time.monotonic() + KILLED_SECONDS
            while time.monotonic() < deadline:
                if (other := self._failure()) is not None:
                    return other
                time.sleep(POLL_SECONDS)
            return error
        message = error.message if isinstance(error, StreamconvError) else repr(error)
        hint = error.hint if isinstance(error, StreamconvError) else ""
        self._say(self._rank, message, hint)
        deadline = time.monotonic() + HEARD_SECONDS
        with suppress(Exception):
            while self._count("heard") < self._size - 1 and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
        return error

    # what is said in the store

    def _agree(self, mine: str) -> None:
        self._store.set(f"plan/{self._rank}", mine)
        keys = [f"plan/{rank}" for rank in range(self._size)]

        def all_there() -> bool:
            return self._store.check(keys)

        self._wait("not every rank has planned", all_there, JOIN_SECONDS)
        theirs = [self._store.get(key).decode() for key in keys]
        for rank, other in enumerate(theirs):
            if other != theirs[0]:
                raise PlanRefused(
                    f"rank {rank} ({self._who(rank)}) would make another conversion than rank 0: "
                    f"fingerprint {other} there, {theirs[0]} here",
                    "do all hosts see the same source, and have they the same options?",
                )

    def _connect(self) -> None:
        """Open the connection that breaks where the next rank dies, and wait for all to have it."""
        self._connection.open()
        self._wait("", self._connection.settled.is_set)
        self._store.add("connected", 1)
        # one that went on, and ended, would break what the others are about to open
        self._wait("", lambda: self._count("connected") == self._size)

    def _wait(self, what: str, done: Callable[[], bool], seconds: float | None = None) -> None:
        begin = time.monotonic()
        while not done():
            self._check()
            if seconds is not None and time.monotonic() - begin > seconds:
                there = [rank for rank in range(self._size) if self._store.check([f"plan/{rank}"])]
                missing = sorted(set(range(self._size)) - set(there))
                raise IOFailed(f"{what} after {seconds:.0f} s; missing are the ranks {missing}")
            time.sleep(POLL_SECONDS)

    def _check(self) -> None:
        failure = self._failure()
        if failure is not None:
            raise failure

    def _failure(self) -> RankFailed | None:
        """What a rank has failed of, where one has: another, or this one as others have found."""
        try:
            with _store_reached():
                if self._lost is not None:
                    raise self._lost
                if not self._store.check(["failed"]):
                    return None
                said: dict[str, Any] = json.loads(self._store.get("failed"))
                self._store.add("heard", 1)
                who = self._who(int(said["rank"]))
        except RankFailed as lost:
            return lost
        return RankFailed(f"rank {said['rank']} ({who}) failed: {said['message']}", said["hint"])

    def _say(self, rank: int, message: str, hint: str = "") -> None:
        """Say that a rank has failed; the first word counts."""
        said = json.dumps({"rank": rank, "message": message, "hint": hint})
        with suppress(Exception):
            self._store.compare_set("failed", "", said)

    def _who(self, rank: int) -> str:
        key = f"who/{rank}"
        return self._store.get(key).decode() if self._store.check([key]) else "never seen"

    def _count(self, key: str) -> int:
        return int(self._store.add(key, 0))

    def _beat(self) -> None:
        """Beat, watch that the next rank does, and end this one's work where any has failed."""
        watch = Heartbeat()
        while not self._over.wait(BEAT_SECONDS):
            try:
                self._store.add(f"beat/{self._rank}", 1)
                beats, left = self._count(f"beat/{self._next}"), self._count(f"left/{self._next}")
                failed = self._store.check(["failed"])
            except RuntimeError as error:
                self._lost = error
                self._cancel.set()
                return
            if failed:
                self._cancel.set()
            death = watch.failure_reason(
                time.monotonic(),
                beats,
                left=left > 0,
                broken=self._connection.broken.is_set(),
                told_to_end=self._told_to_end,
            )
            if death:
                self._say(self._next, death)


@contextmanager
def _store_reached() -> Iterator[None]:
    """Turns what the store raises when the launcher that keeps it is gone."""
    try:
        yield
    except RuntimeError as error:
        first = str(error).partition("\n")[0]
        raise RankFailed(
            f"the store that the ranks share is lost: {first}",
            f"{launcher.store_host()} keeps it; has torchrun ended there, or the host gone?",
        ) from error

"""Watches if the next rank is alive, by a connection of gloo and by heartbeats.

The connection breaks as soon as the other process ends. A thread waits on it for data that is never
sent: if a process is killed, its host closes the connection, and the wait ends. If the host itself
is gone, or the network is cut, nothing closes it, but heartbeats stop. The process group belongs to
the run; the default group of a program that uses streamconv is left alone.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from streamconv.execution.rank_store import Failure, RankStore
from streamconv.system.cancellation import CancelToken

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

HEARTBEAT_SECONDS = 0.5
SILENT_SECONDS = 30.0
"""A rank without a heartbeat for longer than this counts as dead."""
SILENT_SECONDS_DISCONNECTED = 1.0
"""The same after its connection broke. If it still sends heartbeats, the network broke it."""
SILENT_SECONDS_ENDING = 2.5
"""The same if this process is ending: a launcher ends all ranks after one has died."""
CONNECT_SECONDS = 10.0
"""The time limit of connecting, which all ranks start at the same time."""

WAIT_TAG, WAKE_TAG = 0, 1
"""Tags of the receives that are posted; no rank ever sends anything."""
FOREVER = timedelta(days=3650)


class Heartbeat:
    """The heartbeats of one rank, as another one sees them from time to time.

    The time is an argument, so that a test needs no clock.
    """

    def __init__(self) -> None:
        self._count = 0
        self._since = 0.0
        self._broken = False
        self._limit = SILENT_SECONDS

    def failure_reason(
        self, now: float, count: int, *, left: bool, broken: bool, ending: bool
    ) -> str | None:
        """Return why the rank counts as dead, or None if it may be alive.

        A rank that has not joined yet, or has left as intended, is not dead.

        Args:
            now: The time, in seconds.
            count: The number of its heartbeats so far; 0 before it joins.
            left: True if it has left as intended.
            broken: True if the connection to it has broken.
            ending: True if this process was interrupted.
        """
        if broken and not self._broken:
            self._broken, self._limit = True, SILENT_SECONDS_DISCONNECTED
            self._count, self._since = count, now
        elif left or count != self._count:
            self._limit = SILENT_SECONDS
            self._count, self._since = count, now
        silent = now - self._since
        limit = min(self._limit, SILENT_SECONDS_ENDING if ending else SILENT_SECONDS)
        if not count or silent <= limit:
            return None
        if self._limit == SILENT_SECONDS_DISCONNECTED:
            return f"its connection is broken, and it has been silent for {silent:.0f} s"
        return f"it has been silent for {silent:.0f} s"


class Connection:
    """A connection between two ranks. All ranks open theirs, or none does."""

    def __init__(self, open_store: "Callable[[], Store]", rank: int, size: int, other: int) -> None:
        """Describe the connection.

        Args:
            open_store: Opens a store that the ranks share, for this connection alone: gloo
                blocks it.
            rank: The number of this rank.
            size: The number of ranks.
            other: The rank at the other end.
        """
        self.settled = threading.Event()
        """Set when it is open, or failed to open because gloo finds no way to all ranks."""
        self.broken = threading.Event()
        """Set when it was open and has broken."""
        self._open_store = open_store
        self._rank, self._size, self._other = rank, size, other
        self._group: Any = None
        self._thread = threading.Thread(target=self._watch, name="connection", daemon=True)

    def open(self) -> None:
        """Start to connect, in a thread, so that the caller can handle signals meanwhile."""
        self._thread.start()

    def close(self) -> None:
        """Close the connection, whatever the others do. Waits for an attempt to connect.

        Call it before the interpreter ends. A receive that is still pending then aborts the
        process: it did in 31 of 80 runs, and in none with this.
        """
        if self._thread.ident is None:
            return
        self.settled.wait(2 * CONNECT_SECONDS)
        if self._group is not None:
            # a receive that times out breaks the connection for all receives, so the thread wakes
            with suppress(RuntimeError):
                self._receive(WAKE_TAG, timedelta(milliseconds=1))
        self._thread.join(CONNECT_SECONDS)
        self._group = None

    def _watch(self) -> None:
        """Connect, and wait until the connection breaks."""
        limit = timedelta(seconds=CONNECT_SECONDS)
        try:
            from torch._C._distributed_c10d import PrefixStore, ProcessGroupGloo

            store = PrefixStore("gloo", self._open_store())
            self._group = ProcessGroupGloo(store, self._rank, self._size, timeout=limit)
        except Exception:
            # heartbeats are enough to run without it
            return
        finally:
            self.settled.set()
        with suppress(RuntimeError):
            self._receive(WAIT_TAG, FOREVER)
        self.broken.set()

    def _receive(self, tag: int, limit: timedelta) -> None:
        import torch

        buffers = [torch.empty(1, dtype=torch.uint8, device="cpu")]
        self._group.recv(buffers, self._other, tag).wait(limit)


class Watch:
    """A thread that sends the heartbeats of this rank and watches those of the next one."""

    def __init__(
        self, store: RankStore, other: int, connection: Connection, cancel: CancelToken
    ) -> None:
        """Describe the watch.

        Args:
            store: What the ranks share.
            other: The rank to watch. If it dies, its failure is published.
            connection: The connection to it.
            cancel: Set if any rank has failed.
        """
        self.is_ending = False
        """True if this process was interrupted."""
        self.store_error: RuntimeError | None = None
        """The error of the store, if it is lost: nothing is watched any more."""
        self._store = store
        self._other = other
        self._connection = connection
        self._cancel = cancel
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Send no more heartbeats, and wait for the thread to end."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        heartbeat = Heartbeat()
        while not self._stopped.wait(HEARTBEAT_SECONDS):
            try:
                self._store.beat()
                count, left = self._store.heartbeats(self._other), self._store.has_left(self._other)
                failed = self._store.has_failure()
            except RuntimeError as error:
                self.store_error = error
                self._cancel.set()
                return
            if failed:
                self._cancel.set()
            broken = self._connection.broken.is_set()
            reason = heartbeat.failure_reason(
                time.monotonic(), count, left=left, broken=broken, ending=self.is_ending
            )
            if reason:
                with suppress(Exception):
                    self._store.publish_failure(Failure(self._other, reason))

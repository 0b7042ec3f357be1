"""Whether another rank lives: gloo's connection to it, and its beats.

The connection breaks as soon as the other process ends. A thread holds a receive on it for which
nothing is ever sent: where a process is killed, on any host, its system closes what it had open,
and the receive ends. A host that is gone and a network that is cut close nothing, but then there
are no beats. The process group is the run's own; a program's default group is left alone.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

SILENT_SECONDS = 30.0
"""A rank that has not beaten for so long counts as dead."""
SILENT_SECONDS_UNCONNECTED = 1.0
"""The same once its connection is broken: who beats then lives, and a network has broken it."""
SILENT_SECONDS_AT_THE_END = 2.5
"""The same when this process has been told to end: a launcher does so when a rank has died."""
CONNECT_SECONDS = 10.0
"""How long a rank tries to connect; all begin at the same time."""

HELD, NEVER = 0, 1
"""Tags of what is waited for; nothing is ever sent."""
FOR_EVER = timedelta(days=3650)


class Heartbeat:
    """What the beats of a rank say of it, seen from time to time. Pure: the time is given."""

    def __init__(self) -> None:
        self._beats = 0
        self._since = 0.0
        self._broken = False
        self._patience = SILENT_SECONDS

    def failure_reason(
        self, now: float, beats: int, *, left: bool, broken: bool, told_to_end: bool
    ) -> str | None:
        """Why a rank counts as dead that has beaten so often; None where it does not.

        Neither does one that has not come yet, or has `left` as it should.
        """
        if broken and not self._broken:
            self._broken, self._patience = True, SILENT_SECONDS_UNCONNECTED
            self._beats, self._since = beats, now
        elif left or beats != self._beats:
            self._patience = SILENT_SECONDS
            self._beats, self._since = beats, now
        silent = now - self._since
        most = SILENT_SECONDS_AT_THE_END if told_to_end else SILENT_SECONDS
        if not beats or silent <= min(self._patience, most):
            return None
        unconnected = self._patience == SILENT_SECONDS_UNCONNECTED
        cut = "its connection is broken, and " if unconnected else ""
        return f"{cut}it has been silent for {silent:.0f} s; was it killed?"


class Connection:
    """From rank `rank` of `size` to rank `other`; all ranks open theirs, or none does.

    `meet` opens a store that they share, for this alone: gloo waits in it.
    """

    def __init__(self, meet: "Callable[[], Store]", rank: int, size: int, other: int) -> None:
        self.settled = threading.Event()
        """Set when it stands, or never will: gloo is not there, or finds no way to all ranks."""
        self.broken = threading.Event()
        """Set when it has stood and does not any more."""
        self._meet = meet
        self._rank, self._size, self._other = rank, size, other
        self._group: Any = None
        self._thread = threading.Thread(target=self._hold, name="connection", daemon=True)

    def open(self) -> None:
        """Begin to connect, in a thread: the caller hears signals meanwhile."""
        self._thread.start()

    def close(self) -> None:
        """Break it, whatever the others do; an attempt to connect is waited for.

        Needed: a receive that is pending when the interpreter ends aborts the process (31 times
        out of 80 here; closed before, never).
        """
        if self._thread.ident is None:
            return
        self.settled.wait(2 * CONNECT_SECONDS)
        if self._group is not None:
            # one receive that is given up breaks the connection for all: so the thread awakes
            with suppress(RuntimeError):
                self._receive(NEVER, timedelta(milliseconds=1))
        self._thread.join(CONNECT_SECONDS)
        self._group = None

    def _hold(self) -> None:
        limit = timedelta(seconds=CONNECT_SECONDS)
        try:
            from torch._C._distributed_c10d import PrefixStore, ProcessGroupGloo

            store = PrefixStore("gloo", self._meet())
            self._group = ProcessGroupGloo(store, self._rank, self._size, timeout=limit)
        except Exception:
            # the run goes on: there are the beats
            return
        finally:
            self.settled.set()
        with suppress(RuntimeError):
            self._receive(HELD, FOR_EVER)
        self.broken.set()

    def _receive(self, tag: int, limit: timedelta) -> None:
        import torch

        nothing = [torch.empty(1, dtype=torch.uint8)]
        self._group.recv(nothing, self._other, tag).wait(limit)

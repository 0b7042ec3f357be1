"""Time limits for calls that a server may never answer, and for transfers that are too slow."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from streamconv.system.cancellation import CancelToken
from streamconv.system.retry import TransientError

ANSWER_SECONDS = 120.0
"""Seconds in which a server has to begin its answer, whatever it sends meanwhile."""
LEAST_BYTES = 60_000
LEAST_BYTES_SECONDS = 60.0
"""A transfer of fewer than LEAST_BYTES in this time is given up: 1 kB/s."""
POLL_SECONDS = 0.5
"""How often a call that waits checks if the run was canceled."""

T = TypeVar("T")


class TooSlow(TransientError):
    """A transfer is too slow to wait for its end. Whatever arrived counts as no progress."""


def within(
    seconds: float,
    call: Callable[[], T],
    cancel: CancelToken,
    undo: Callable[[T], object] = lambda _: None,
) -> T:
    """Return what `call` returns, or raise what it raises, if it ends in time.

    Otherwise it goes on in a thread of its own, which does not keep the process alive.

    Args:
        seconds: How long the call may take.
        call: May wait for a server.
        cancel: Ends the waiting.
        undo: Called with a result that comes too late, to release it.

    Raises:
        TransientError: The call has not ended in time.
        Interrupted: The run was canceled.
    """
    results: list[T] = []
    errors: list[BaseException] = []
    ended, lock, given_up = threading.Event(), threading.Lock(), False

    def run() -> None:
        try:
            result = call()
        except BaseException as error:
            errors.append(error)
        else:
            with lock:
                results.append(result)
            if given_up:
                undo(result)
        ended.set()

    threading.Thread(target=run, name="request", daemon=True).start()
    end = time.monotonic() + seconds
    try:
        while not ended.wait(min(POLL_SECONDS, max(end - time.monotonic(), 0))):
            cancel.check()
            if time.monotonic() >= end:
                raise TransientError(f"no answer within {seconds:.0f} s")
    except BaseException:
        with lock:
            given_up = True
            late = list(results)
        for result in late:
            undo(result)
        raise
    if errors:
        raise errors[0]
    return results[0]


class LeastRate:
    """Gives up a transfer that is slower than the least rate."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._nbytes = 0

    def add(self, nbytes: int) -> None:
        """Count bytes that have arrived.

        Raises TooSlow if fewer than LEAST_BYTES have arrived in the last LEAST_BYTES_SECONDS.
        """
        self._nbytes += nbytes
        now = time.monotonic()
        if now - self._begin < LEAST_BYTES_SECONDS:
            return
        if self._nbytes < LEAST_BYTES:
            raise TooSlow(
                f"only {self._nbytes:,} bytes arrived in {now - self._begin:.0f} s, at least "
                f"{LEAST_BYTES:,} are expected"
            )
        self._begin, self._nbytes = now, 0

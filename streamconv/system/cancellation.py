"""The cancellation of a run: all of its threads stop, and those that wait stop waiting."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from streamconv.errors import Interrupted

SIGNAL_SECONDS = 0.5
"""The longest time that the main thread waits before it looks for signals."""


class CancelToken:
    """Cancellation token shared by the threads of a run. Each run has one."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Cancel the run."""
        self._event.set()

    def is_set(self) -> bool:
        """Return True if the run has been canceled."""
        return self._event.is_set()

    def wait(self, seconds: float) -> None:
        """Wait for this time. Raises Interrupted as soon as the run is canceled."""
        end = time.monotonic() + seconds
        while True:
            # a signal that arrives just before a wait begins does not end it
            if self._event.wait(min(max(end - time.monotonic(), 0), SIGNAL_SECONDS)):
                raise Interrupted("the run was canceled")
            if time.monotonic() >= end:
                return

    def check(self) -> None:
        """Raise Interrupted if the run has been canceled."""
        if self.is_set():
            raise Interrupted("the run was canceled")

    @contextmanager
    def cancels_on_exit(self, *threads: threading.Thread) -> Iterator[None]:
        """Start these threads, and wait for their end when the context is left.

        If an exception leaves the context, the run is canceled first. Raises Interrupted at the
        end of the context if somebody else has canceled it.
        """
        try:
            for thread in threads:
                thread.start()
            yield
            self.check()
        except BaseException:
            self.set()
            raise
        finally:
            for thread in threads:
                if thread.ident is not None:
                    thread.join()

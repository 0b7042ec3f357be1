"""A run's word to its own threads that it ends: whoever waits then gives up at once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from streamconv.errors import Interrupted


class CancelToken:
    """One for each run, handed to all that may wait in it; set by whoever ends it."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> None:
        """Wait so long. Raises Interrupted where the run ends meanwhile, or has ended."""
        if self._event.wait(seconds):
            raise Interrupted("the run was ended from elsewhere")

    def check(self) -> None:
        """Raises Interrupted where the run has ended."""
        self.wait(0)

    @contextmanager
    def cancels_on_exit(self, *threads: threading.Thread) -> Iterator[None]:
        """Threads at work for as long as the context; left by an exception, it tells them to end.

        Raises Interrupted at its end where another has told them so.
        """
        for thread in threads:
            thread.start()
        try:
            yield
            self.check()
        except BaseException:
            self.set()
            raise
        finally:
            for thread in threads:
                thread.join()

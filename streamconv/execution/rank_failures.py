"""How the failure of a rank ends all others, by its name and reason.

The first failure that is published in the store of torchrun counts. Each rank looks for it at every
event and while it waits. A store that does not answer any more is a failure, too.
"""

import time
from contextlib import suppress

from streamconv.errors import Interrupted, RankFailed, StreamconvError
from streamconv.execution.liveness import Watch
from streamconv.execution.rank_store import Counter, Failure, RankStore, map_store_errors

NOTICE_SECONDS = 5.0
"""How long a failed rank waits for the others to notice: torchrun ends them when it exits."""
CAUSE_SECONDS = 5.0
"""How long an interrupted rank waits for a failure of another rank, which may be the cause."""
POLL_SECONDS = 0.05
"""How often a rank that waits looks into the store."""


class RankFailures:
    """The failures of ranks, as one of them sees and publishes them."""

    def __init__(self, store: RankStore, watch: Watch, rank: int, size: int) -> None:
        """Describe the ranks.

        Args:
            store: What the ranks share.
            watch: Finds out if the next rank or the store dies.
            rank: The number of this process, from 0.
            size: The number of ranks.
        """
        self._store = store
        self._watch = watch
        self._rank = rank
        self._size = size

    def report(self, error: BaseException) -> BaseException:
        """Tell the other ranks why this one ends, and return the error that it ends with.

        That is `error`, unless another rank caused it: then it is the failure of that rank.
        """
        if isinstance(error, RankFailed):
            return error
        if isinstance(error, Interrupted):
            self._watch.is_ending = True
            return self._wait_for_cause() or error
        message = error.message if isinstance(error, StreamconvError) else repr(error)
        hint = error.hint if isinstance(error, StreamconvError) else ""
        with suppress(Exception):
            self._store.publish_failure(Failure(self._rank, message, hint))
        deadline = time.monotonic() + NOTICE_SECONDS
        with suppress(Exception):
            others = self._size - 1
            while self._store.count(Counter.FAILURE_READ) < others and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
        return error

    def raise_first(self) -> None:
        """Raise the failure of a rank, if there is one."""
        if (failure := self.first()) is not None:
            raise failure

    def first(self) -> RankFailed | None:
        """Return the failure of a rank, if there is one. Other ranks may name this one."""
        try:
            with map_store_errors():
                if self._watch.store_error is not None:
                    raise self._watch.store_error
                if not self._store.has_failure():
                    return None
                failure = self._store.failure()
                self._store.increment(Counter.FAILURE_READ)
                process = self._store.process(failure.rank)
        except RankFailed as lost:
            return lost
        return RankFailed(
            f"rank {failure.rank} ({process}) failed: {failure.message}", failure.hint
        )

    def _wait_for_cause(self) -> RankFailed | None:
        """Return the failure of another rank, which may be why torchrun interrupted this one."""
        deadline = time.monotonic() + CAUSE_SECONDS
        while time.monotonic() < deadline:
            if (failure := self.first()) is not None:
                return failure
            time.sleep(POLL_SECONDS)
        return None

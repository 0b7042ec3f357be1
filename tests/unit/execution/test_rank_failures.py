"""What a rank ends with, at a store in memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from torch._C._distributed_c10d import HashStore

from streamconv.errors import Interrupted, IOFailed, RankFailed
from streamconv.execution import rank_failures
from streamconv.execution.rank_failures import RankFailures
from streamconv.execution.ranks import RankGroup
from streamconv.system.cancellation import CancelToken


@contextmanager
def seen_by(store: HashStore, rank: int) -> Iterator[RankFailures]:
    """The failures of two ranks, as one of them sees them while it runs."""
    with RankGroup(store, rank, 2, CancelToken()) as group:
        yield group.failures


def test_what_a_rank_ends_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own failure; another's, if that has caused an interruption."""
    monkeypatch.setattr(rank_failures, "NOTICE_SECONDS", 0.1)
    monkeypatch.setattr(rank_failures, "CAUSE_SECONDS", 0.2)
    store = HashStore()
    with seen_by(store, 0) as first, seen_by(store, 1) as second:
        stopped = Interrupted("terminated", signal=15)
        assert first.report(stopped) is stopped
        broken = IOFailed("the disk is gone", "look at it")
        assert second.report(broken) is broken
        cause = first.report(stopped)
        assert isinstance(cause, RankFailed)
        assert "rank 1" in cause.message
        assert "the disk is gone" in cause.message
        assert cause.hint == "look at it"


def test_a_store_that_fails() -> None:
    """It is where the other ranks are known from, so it counts as their failure."""
    with seen_by(HashStore(), 0) as failures:
        assert failures.first() is None
        failures.raise_first()
        failures._watch.store_error = RuntimeError("Broken pipe")
        with pytest.raises(RankFailed, match="the store"):
            failures.raise_first()

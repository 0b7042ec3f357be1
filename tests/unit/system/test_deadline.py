"""Calls that do not end and transfers that are too slow are given up."""

import threading

import pytest

from streamconv.errors import Interrupted
from streamconv.system import deadline
from streamconv.system.cancellation import CancelToken
from streamconv.system.deadline import LEAST_BYTES, LEAST_BYTES_SECONDS, LeastRate, TooSlow, within
from streamconv.system.retry import TransientError


def test_what_ends_in_time_is_returned_or_raised() -> None:
    assert within(20, lambda: 3, CancelToken()) == 3
    with pytest.raises(ZeroDivisionError):
        within(20, lambda: 1 // 0, CancelToken())


def test_a_result_that_comes_too_late_is_undone() -> None:
    """A connection that is opened when nobody waits for it any longer has to be closed."""
    go, undone = threading.Event(), threading.Event()

    def call() -> str:
        assert go.wait(20)
        return "late"

    def undo(result: str) -> None:
        assert result == "late"
        undone.set()

    with pytest.raises(TransientError, match="no answer within 0 s"):
        within(0, call, CancelToken(), undo)
    assert not undone.is_set()
    go.set()
    assert undone.wait(20)


def test_a_canceled_run_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "POLL_SECONDS", 0.001)
    cancel, go = CancelToken(), threading.Event()
    cancel.set()
    try:
        with pytest.raises(Interrupted):
            within(60, lambda: go.wait(20), cancel)
    finally:
        go.set()


def test_the_least_rate_is_that_of_each_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Much in one interval does not excuse too little in the next."""
    now = 0.0
    monkeypatch.setattr(deadline.time, "monotonic", lambda: now)
    rate = LeastRate()
    rate.add(0)
    now = LEAST_BYTES_SECONDS
    rate.add(10 * LEAST_BYTES)
    now += LEAST_BYTES_SECONDS - 1
    rate.add(LEAST_BYTES - 1)
    now += 1
    with pytest.raises(
        TooSlow, match="only 59,999 bytes arrived in 60 s, at least 60,000 are expected"
    ):
        rate.add(0)
    rate = LeastRate()
    now += LEAST_BYTES_SECONDS
    rate.add(LEAST_BYTES)

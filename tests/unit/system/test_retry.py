"""What is tried again, how often, and how long the waits are."""

import time
from collections.abc import Callable, Iterator
from email.utils import formatdate, parsedate_to_datetime

import pytest

from streamconv.errors import Interrupted, IOFailed
from streamconv.system.cancellation import CancelToken
from streamconv.system.retry import ATTEMPTS, MOST_ATTEMPTS, TransientError, retry, retry_after


class Waits(CancelToken):
    """A token that notes how long it should wait, and does not."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, seconds: float) -> None:
        super().wait(0)
        if seconds:
            self.seconds.append(seconds)


def failing(*errors: TransientError) -> Callable[[], str]:
    """Build an attempt that raises these errors one after another, then succeeds."""
    left: Iterator[TransientError] = iter(errors)

    def attempt() -> str:
        for error in left:
            raise error
        return "done"

    return attempt


def test_a_success_is_returned_at_once() -> None:
    waits = Waits()
    assert retry("cannot read x", failing(), waits) == "done"
    assert waits.seconds == []


def test_waits_double() -> None:
    waits = Waits()
    errors = [TransientError("reset") for _ in range(ATTEMPTS - 1)]
    assert retry("cannot read x", failing(*errors), waits) == "done"
    assert waits.seconds == [0.5, 1, 2, 4, 8]


def test_the_last_attempt_fails_with_the_reason() -> None:
    errors = [TransientError(f"reset {k}") for k in range(ATTEMPTS)]
    with pytest.raises(IOFailed) as caught:
        retry("cannot read x", failing(*errors), Waits(), "check the network")
    assert caught.value.message == "cannot read x: reset 5; tried 6 times"
    assert caught.value.hint == "check the network"


def test_attempts_with_progress_do_not_count() -> None:
    """As long as each gets a part, a connection may be cut any number of times."""
    waits = Waits()
    errors = [TransientError("cut", progress=True) for _ in range(5 * ATTEMPTS)]
    assert retry("cannot read x", failing(*errors), waits) == "done"
    assert set(waits.seconds) == {0.5}


@pytest.mark.parametrize(("cuts", "tried"), [(3, 3 + ATTEMPTS - 1), (200, MOST_ATTEMPTS)])
def test_every_attempt_is_named(cuts: int, tried: int) -> None:
    """Also those that made some progress; and progress does not go on for ever."""
    errors = [TransientError("cut", progress=True) for _ in range(cuts)]
    errors += [TransientError("reset") for _ in range(ATTEMPTS)]
    with pytest.raises(IOFailed, match=f"tried {tried} times"):
        retry("cannot read x", failing(*errors), Waits())


def test_the_wait_of_the_server_comes_first() -> None:
    waits = Waits()
    assert retry("cannot read x", failing(TransientError("busy", wait=77)), waits) == "done"
    assert waits.seconds == [77]


def test_a_server_that_asks_for_no_wait_is_not_hurried() -> None:
    """Its clock may be slow, so that the time it names has passed."""
    waits = Waits()
    errors = [TransientError("busy", wait=0.0) for _ in range(ATTEMPTS - 1)]
    assert retry("cannot read x", failing(*errors), waits) == "done"
    assert waits.seconds == [0.5, 1, 2, 4, 8]


def test_a_server_that_asks_for_too_long_a_wait() -> None:
    with pytest.raises(IOFailed, match=r"busy, to be asked again in 601 s; tried once$"):
        retry("cannot read x", failing(TransientError("busy", wait=601)), Waits())


def test_other_errors_are_not_retried() -> None:
    waits = Waits()

    def attempt() -> None:
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        retry("cannot read x", attempt, waits)
    assert waits.seconds == []


def test_a_canceled_run_is_not_retried() -> None:
    cancel = CancelToken()

    def attempt() -> None:
        cancel.set()
        raise TransientError("reset")

    with pytest.raises(Interrupted):
        retry("cannot read x", attempt, cancel)


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("7", 7, 7),
        (formatdate(time.time() + 86_400, usegmt=True), 80_000, 86_400),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
    ],
    ids=["seconds", "tomorrow", "years ago"],
)
def test_retry_after_is_a_number_or_a_date(text: str, least: float, most: float) -> None:
    """A date that has passed is now."""
    seconds = retry_after({"retry-after": text})
    assert seconds is not None
    assert least <= seconds <= most


@pytest.mark.parametrize("years", [-30, 30])
@pytest.mark.parametrize("date", ["Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2065 07:28:00 GMT"])
def test_a_date_to_retry_after_is_that_of_the_server_s_clock(
    years: int, date: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far the clock of this host is away from it; without its date, that has to do."""
    later = date.replace("07:28:00", "07:29:30")
    at = parsedate_to_datetime(date).timestamp() + years * 365 * 86_400
    monkeypatch.setattr(time, "time", lambda: at)
    assert retry_after({"retry-after": later, "date": date}) == 90
    for unreadable in ({}, {"date": ""}, {"date": "now"}, {"date": "Wed, 99 Oct 2015"}):
        wait = retry_after({"retry-after": later, **unreadable})
        assert wait == pytest.approx(max(90 - years * 365 * 86_400, 0))


@pytest.mark.parametrize("text", ["", "soon", "-1", "1.5", "Wed, 99 Oct 2015"])
def test_retry_after_that_says_nothing(text: str) -> None:
    """It leaves the wait to the caller."""
    assert retry_after({"retry-after": text}) is None
    assert retry_after({}) is None

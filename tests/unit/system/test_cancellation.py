"""A canceled run stops all of its threads, and those that wait stop waiting."""

import threading
import time

import pytest

from streamconv.errors import Interrupted
from streamconv.system.cancellation import CancelToken


def test_nothing_happens_before_it_is_canceled() -> None:
    cancel = CancelToken()
    assert not cancel.is_set()
    cancel.check()
    cancel.wait(0.001)


def test_a_canceled_run_raises() -> None:
    cancel = CancelToken()
    cancel.set()
    assert cancel.is_set()
    for call in (cancel.check, lambda: cancel.wait(60)):
        with pytest.raises(Interrupted, match="the run was canceled"):
            call()


def test_a_wait_ends_as_soon_as_the_run_is_canceled() -> None:
    cancel = CancelToken()
    began = time.monotonic()
    threading.Timer(0.05, cancel.set).start()
    with pytest.raises(Interrupted):
        cancel.wait(60)
    assert time.monotonic() - began < 30


def test_threads_end_with_their_context() -> None:
    """Without an error nothing is canceled, and both have ended."""
    cancel, done = CancelToken(), []
    threads = [threading.Thread(target=done.append, args=(k,)) for k in range(2)]
    with cancel.cancels_on_exit(*threads):
        pass
    assert not any(thread.is_alive() for thread in threads)
    assert sorted(done) == [0, 1]
    assert not cancel.is_set()


def test_an_error_cancels_the_threads() -> None:
    """They stop waiting, and the error comes out as it is."""
    cancel = CancelToken()
    stopped: list[str] = []

    def work() -> None:
        try:
            cancel.wait(60)
        except Interrupted as error:
            stopped.append(error.message)

    with pytest.raises(ZeroDivisionError), cancel.cancels_on_exit(threading.Thread(target=work)):
        raise ZeroDivisionError
    assert stopped == ["the run was canceled"]


def test_a_context_says_that_somebody_else_has_canceled_it() -> None:
    cancel = CancelToken()
    with pytest.raises(Interrupted), cancel.cancels_on_exit():
        cancel.set()

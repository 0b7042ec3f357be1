"""How SIGINT and SIGTERM end the process.

    while the command line is imported   by the signal (`__main__.py`)
    while a verb runs                    by Interrupted, which is raised once, and reported
    while its result is printed          a first signal changes nothing
    after that                           at once, with the exit code of the run

A second signal ends the process at once. Signals that follow the first one within half a second
count as the same: `timeout` and launchers send each both to the process and to its group.
"""

import atexit
import os
import signal
import time
from types import FrameType

from streamconv.errors import Interrupted

SIGNAL_DEBOUNCE_SECONDS = 0.5
"""A signal that follows the first one within this time counts as the same request to stop."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def raise_on_signals() -> None:
    """Let the first signal raise Interrupted in the main thread."""
    for number in _SIGNALS:
        signal.signal(number, _interrupt)


def outlast_signals() -> None:
    """Let the first signal have no effect: what was asked for is done, and is only reported."""
    for number in _SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, _outlast)


def exit_on_signals(code: int) -> None:
    """Let any signal end the process with the exit code of the run, which is over."""

    def exit_at_once(number: int, frame: FrameType | None) -> None:
        os._exit(code)

    for number in _SIGNALS:
        signal.signal(number, exit_at_once)


def ignore_signals_at_exit() -> None:
    """Let no signal change the exit code once the interpreter has given up its handlers.

    It does so right after the functions of `atexit`, and takes some more milliseconds to end. Call
    this before anything else is registered there.
    """
    atexit.register(_ignore)


def _ignore() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End the run by an exception."""
    _exit_on_second()
    raise Interrupted("interrupted" if number == signal.SIGINT else "terminated", signal=number)


def _outlast(number: int, frame: FrameType | None) -> None:
    _exit_on_second()


def _exit_on_second() -> None:
    """Let a second signal end the process at once, if it does not follow right away."""
    begin = time.monotonic()

    def exit_at_once(number: int, frame: FrameType | None) -> None:
        if time.monotonic() - begin > SIGNAL_DEBOUNCE_SECONDS:
            os._exit(128 + number)

    for each in _SIGNALS:
        signal.signal(each, exit_at_once)

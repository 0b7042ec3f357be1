"""Retries of calls that may fail for a moment: how often, and how long to wait in between."""

import itertools
import logging
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import TypeVar

from streamconv.errors import IOFailed, quoted
from streamconv.system.cancellation import CancelToken

LOG = logging.getLogger(__name__)
LOG.addHandler(logging.NullHandler())

ATTEMPTS = 6
"""How many attempts in a row may fail without any progress."""
MOST_ATTEMPTS = 100
"""How many attempts there are at most, even if each of them makes some progress."""
FIRST_WAIT = 0.5
"""Seconds before the second attempt. Each further wait is twice as long."""
LONGEST_WAIT = 30.0
"""Seconds to which these waits grow."""
LONGEST_ASKED_WAIT = 600.0
"""Seconds. If a server asks for a longer wait (`Retry-After`), there is no further attempt."""

UNREADABLE = (ValueError, OverflowError, TypeError, IndexError)
"""What is raised for a date that cannot be read."""

T = TypeVar("T")


class TransientError(Exception):
    """A failure after which the next attempt may succeed."""

    def __init__(self, reason: str, *, wait: float | None = None, progress: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        """Seconds that the server asks to wait, or None if it does not ask."""
        self.progress = progress
        """True if the attempt made some progress."""


def retry(failure: str, attempt: Callable[[], T], cancel: CancelToken, hint: str = "") -> T:
    """Call `attempt` until it raises no TransientError, and return its result.

    Args:
        failure: Beginning of the message if all attempts fail: "cannot read hf://org/name".
        attempt: Raises TransientError if it should be called again.
        cancel: Ends the waiting.
        hint: What the user can do if all attempts fail.

    Raises:
        IOFailed: ATTEMPTS attempts in a row failed without progress, MOST_ATTEMPTS failed in all,
            or the server asks for a longer wait than LONGEST_ASKED_WAIT.
        Interrupted: The run was canceled.
    """
    failed = 0
    for attempts in itertools.count(1):
        cancel.check()
        try:
            return attempt()
        except TransientError as error:
            failed = 1 if error.progress else failed + 1
            # a server whose clock is slow asks for no wait at all
            wait = max(min(FIRST_WAIT * 2 ** (failed - 1), LONGEST_WAIT), error.wait or 0.0)
            if failed == ATTEMPTS or attempts >= MOST_ATTEMPTS or wait > LONGEST_ASKED_WAIT:
                asked = "" if error.wait is None else f", to be asked again in {error.wait:.0f} s"
                tried = "once" if attempts == 1 else f"{attempts} times"
                raise IOFailed(f"{failure}: {error}{asked}; tried {tried}", hint) from error
            LOG.warning("%s", quoted(f"{failure}: {error}; trying again in {wait:.1f} s", 400))
            cancel.wait(wait)
    raise AssertionError("not reached")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait, or None if it does not ask.

    The header `Retry-After` holds a number or a date (RFC 9110, 10.2.3). A date is that of the
    server's clock, and the clock of this host may be years away from it, so it is compared with
    the `Date` of the answer.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        then = parsedate_to_datetime(text).timestamp()
    except UNREADABLE:
        return None
    try:
        now = parsedate_to_datetime(headers.get("date", "")).timestamp()
    except UNREADABLE:
        now = time.time()
    return max(then - now, 0.0)

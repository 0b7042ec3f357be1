"""The errors, and the exit code of each.

    StreamconvError            1   any other error
    |-- UsageError             2   an option or argument is invalid
    |-- BadCheckpoint          3   the input is malformed, incomplete or contradicts itself
    |   |-- NoCheckpoint       3   there is no checkpoint at all
    |   `-- SourceChanged      3   the input has changed since it was planned
    |-- PlanRefused            4   the input is valid, but this conversion of it is impossible
    |-- VerifyFailed           5   the output is not the conversion of its source
    |-- OutputExists           6   the target exists, or another run is writing it
    |-- NoSpace                7   the target has no room: disk full or quota
    |-- IOFailed               8   reading or writing failed
    |   `-- RankFailed         8   another rank of the run failed
    `-- Interrupted          130   SIGINT (143 for SIGTERM)

A message says what cannot be done and why, as "cannot X: Y", or it names the tensor, file or module
that is wrong. It has both facts: what was found, and what was expected. The hint, if there is one,
begins with a verb. Names from a checkpoint are untrusted text: they go into a message through
`quoted`.
"""

from collections.abc import Iterable
from typing import ClassVar


class StreamconvError(Exception):
    """Base of all errors with a message for the user."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        """What the user can do, if the message does not make it clear."""


class UsageError(StreamconvError):
    """An option or argument makes no sense."""

    exit_code = 2


class BadCheckpoint(StreamconvError):
    """A checkpoint is malformed, incomplete or contradicts itself."""

    exit_code = 3


class NoCheckpoint(BadCheckpoint):
    """Nothing at a location is a checkpoint; the hint says what may have been meant."""


class SourceChanged(BadCheckpoint):
    """The source has changed since it was planned.

    Resuming would mix old and new tensors, so the partial output is removed.
    """

    def __init__(
        self, message: str, hint: str = "run again when nothing writes to the source"
    ) -> None:
        super().__init__(message, hint)


class PlanRefused(StreamconvError):
    """The checkpoint is sound, but this conversion of it cannot be planned."""

    exit_code = 4


class VerifyFailed(StreamconvError):
    """The output is not the conversion of its source."""

    exit_code = 5


class OutputExists(StreamconvError):
    """The target exists already, or another run is writing it."""

    exit_code = 6


class NoSpace(StreamconvError):
    """The target has no room: the disk or a quota is full."""

    exit_code = 7


class IOFailed(StreamconvError):
    """Reading or writing failed."""

    exit_code = 8


class RankFailed(IOFailed):
    """Another rank of the run has failed; the message names it and repeats its reason."""


class Interrupted(StreamconvError):
    """SIGINT or SIGTERM ended the run."""

    exit_code = 130

    def __init__(self, message: str, hint: str = "", *, signal: int = 2) -> None:
        super().__init__(message, hint)
        self.signal = signal
        """Number of the signal. The exit code is 128 + signal."""


def quoted(name: str, limit: int = 200) -> str:
    """Return `name` for a message: on one line, control characters escaped, cut to `limit`."""
    text = name if name.isprintable() else name.encode("unicode_escape").decode("ascii")
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def wrong_type(function: str, argument: str, accepted: str, value: object) -> TypeError:
    """Return the error for an argument of a wrong type.

    Args:
        function: Name of the function or method.
        argument: Name of its argument.
        accepted: The types that it takes, in words: `int or None`.
        value: What it was called with.
    """
    kind = "None" if value is None else type(value).__name__
    if kind in ("list", "tuple") and "sequence" in accepted:
        kind = f"a {kind} with other items"
    return TypeError(f"{function}() argument {argument!r} must be {accepted}, not {kind}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "did you mean X?" for the known word that is most like `word`; empty if none is.

    Case, and the kind of separator, make no difference.
    """
    from difflib import get_close_matches

    plain = {_plain(each): each for each in reversed(list(known))}
    match = get_close_matches(_plain(word), plain, n=1, cutoff=0.7)
    match = match or [each for each in plain if len(word) > 2 and each.startswith(_plain(word))]
    return f"did you mean {plain[match[0]]}?" if match else ""


def _plain(word: str) -> str:
    return word[:100].casefold().replace("_", "-").replace(" ", "-")

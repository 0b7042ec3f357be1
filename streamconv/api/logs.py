"""Writes the events of the public functions to the log `streamconv`.

INFO has the steps of a run, DEBUG each piece that is written, and WARNING what a user should know
before using a result. Nothing is shown unless the program that calls streamconv configures logging.
"""

import logging
from collections.abc import Iterable

from streamconv.api.events import (
    Committed,
    Completed,
    Event,
    HashStarted,
    OnEvent,
    PieceWritten,
    Planned,
    Prepared,
    ShareWritten,
    VerifyStarted,
)
from streamconv.errors import quoted
from streamconv.units import show_size
from streamconv.verification.result import Verification

LOG = logging.getLogger("streamconv")
LOG.addHandler(logging.NullHandler())


def logging_events(on_event: OnEvent | None) -> OnEvent:
    """Return a function that logs each event, and passes it on."""

    def log(event: Event) -> None:
        if isinstance(event, PieceWritten):
            piece = event.piece
            LOG.debug("wrote %s of shard %d", show_size(piece.nbytes), piece.shard)
        elif LOG.isEnabledFor(logging.INFO) and (line := _line(event)):
            LOG.info("%s", line)
        if on_event is not None:
            on_event(event)

    return log


def log_notes(notes: Iterable[str]) -> None:
    """Log what a user should know before using a result."""
    for note in notes:
        LOG.warning("%s", quoted(note, 400))


def log_verification(verification: Verification) -> None:
    """Log the result of a verification: INFO if nothing differs, else WARNING."""
    if verification.ok:
        LOG.info("%r", verification)
    else:
        first = verification.differences[0]
        LOG.warning("%r, the first: %s %s", verification, quoted(first.where), quoted(first.detail))


def _line(event: Event) -> str:
    """Return an event as a line of the log; empty if it is not logged."""
    line = ""
    match event:
        case Planned():
            line = f"planned {event.plan!r}"
        case Prepared():
            left = f"{len(event.missing)} of {len(event.plan.shards)} shards"
            line = f"writing {left}, {show_size(event.left_bytes)}"
        case ShareWritten():
            line = "wrote every shard of this process"
        case HashStarted():
            line = f"computing SHA-256 of {show_size(event.total)}"
        case Completed():
            line = f"completed {quoted(str(event.folder))}"
        case VerifyStarted():
            line = f"verifying {show_size(event.total)}"
        case Committed():
            line = "moved the result to its target"
    return line

"""The events that `on_event` is called with, in one type."""

from collections.abc import Callable

from streamconv.execution.events import (
    Committed,
    Completed,
    PieceWritten,
    Planned,
    Prepared,
    ShareWritten,
)
from streamconv.sinks.base import HashProgress, HashStarted
from streamconv.verification.result import (
    FileVerified,
    ProgressEvent,
    VerifyProgress,
    VerifyStarted,
)

__all__ = [
    "Committed",
    "Completed",
    "Event",
    "FileVerified",
    "HashProgress",
    "HashStarted",
    "OnEvent",
    "PieceWritten",
    "Planned",
    "Prepared",
    "ShareWritten",
    "VerifyProgress",
    "VerifyStarted",
]

Event = (
    Planned
    | Prepared
    | PieceWritten
    | ShareWritten
    | HashStarted
    | HashProgress
    | Completed
    | ProgressEvent
    | Committed
)
"""An event of a conversion or a verification."""
OnEvent = Callable[[Event], None]
"""Called with each event, in the thread that called the public function."""

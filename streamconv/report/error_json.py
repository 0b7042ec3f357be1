"""An error as JSON fields."""

from collections.abc import Sequence
from typing import Any

from streamconv.errors import StreamconvError
from streamconv.report.schema import document


def error_fields(error: StreamconvError, notes: Sequence[str], exit_code: int) -> dict[str, Any]:
    """Build the document that is printed on stderr if a command with `--json` fails.

    Args:
        error: What went wrong.
        notes: What a stopped conversion has left, and how to resume it.
        exit_code: Exit code of the process.
    """
    fields = {
        "error": type(error).__name__,
        "exit_code": exit_code,
        "message": error.message,
        "hint": error.hint or None,
        "notes": list(notes),
    }
    return document("error", fields)

"""Prints errors on stderr: in lines for people, or with --json as a line of JSON."""

import json
import os
import traceback
from collections.abc import Sequence
from contextlib import suppress
from errno import ENOMEM
from pathlib import Path

from streamconv.errors import IOFailed, StreamconvError
from streamconv.report.terminal import say

PREFIX = "streamconv: "


class ErrorPrinter:
    """Prints the errors of one run of the command line."""

    def __init__(self, args: Sequence[str]) -> None:
        """Print as JSON if `args` or the environment ask for it."""
        options = args[: args.index("--")] if "--" in args else args
        variable = os.environ.get("STREAMCONV_JSON", "")
        self._as_json = "--json" in options or variable.casefold() in ("1", "true", "yes", "on")

    def print_error(self, error: StreamconvError, *notes: str, exit_code: int = 0) -> None:
        """Print an error: the message, then hint and notes in lines of their own.

        Args:
            error: What went wrong.
            notes: What a stopped conversion has left, and how to resume it.
            exit_code: Exit code of the process, if it is not that of the error's class.
        """
        if self._as_json:
            from streamconv.report.error_json import error_fields

            lines = [json.dumps(error_fields(error, notes, exit_code or error.exit_code))]
        else:
            indent = " " * len(PREFIX)
            more = (f"{indent}{line}" for line in (error.hint, *notes) if line)
            lines = [PREFIX + error.message, *more]
        with suppress(OSError):
            say(*lines, err=True)
        if os.environ.get("STREAMCONV_DEBUG") and not exit_code:
            traceback.print_exc()

    def print_unforeseen(self, error: Exception) -> int:
        """Print an error that is not a StreamconvError; return the exit code."""
        if isinstance(error, BrokenPipeError):  # the reader of the output has closed it
            return IOFailed.exit_code
        shown = _in_words(error)
        self.print_error(shown, *notes_of(error))
        return shown.exit_code


def notes_of(error: BaseException) -> list[str]:
    """Return the notes of an error: what a stopped conversion has left, and how to resume it."""
    return list(getattr(error, "__notes__", []))


def _in_words(error: Exception) -> StreamconvError:
    """Return the StreamconvError for an error of the system or of Python."""
    if isinstance(error, OSError) and error.errno != ENOMEM:
        return IOFailed(*_system_error(error))
    if isinstance(error, MemoryError | ImportError | OSError):
        said = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
        return IOFailed(
            f"cannot run: {said or 'there is not enough memory'}",
            "allow the process more memory, or install streamconv again",
        )
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return IOFailed(
            "cannot run: no thread can be started",
            "lift the limits of the process, or run fewer workers with --jobs",
        )
    return StreamconvError(
        f"unexpected error: {type(error).__name__}: {error}",
        "set STREAMCONV_DEBUG=1 to see the traceback",
    )


def _system_error(error: OSError) -> tuple[str, str]:
    """Return the message and hint for an error of the system that no other code has explained."""
    try:
        Path.cwd()
    except OSError:
        return (
            "cannot use relative paths: the working directory has been removed",
            "change to another folder, or give absolute paths",
        )
    path = "" if error.filename is None else f" {error.filename}"
    return f"cannot read or write{path}: {error.strerror or error}", ""

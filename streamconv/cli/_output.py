"""Prints the output of commands: results on stdout, progress on stderr."""

import itertools
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streamconv.report.terminal import console_environment, new_console, say
from streamconv.system.signals import outlast_signals

if TYPE_CHECKING:
    from streamconv.execution.result import Result
    from streamconv.report.progress import Listener
    from streamconv.verification.result import Verification

FILE_WIDTH = 160
"""Columns of tables that are not printed on a terminal."""
JSON_TOKENS = 1000
"""Tokens of JSON that are printed at once. A plan of many tensors has a hundred thousand."""


@dataclass(frozen=True, slots=True)
class Output:
    """The options of a command that say what it prints."""

    as_json: bool
    quiet: bool
    verbose: bool = False
    no_progress: bool = False

    def progress(self) -> "Listener":
        """Return the listener to events: a bar on a terminal, lines elsewhere, or nothing."""
        from streamconv.report.progress import DUMB_LINE_SECONDS, Bar, Lines, Silence

        console = new_console(err=True)
        if self.quiet or self.no_progress:
            return Silence(console)
        if console.is_terminal and console.is_dumb_terminal:
            return Lines(console, DUMB_LINE_SECONDS, verbose=self.verbose)
        if console.is_terminal:
            return Bar(console, verbose=self.verbose)
        return Lines(console, verbose=self.verbose, as_json=self.as_json)

    def show_result(self, result: "Result") -> None:
        """Print the result of a conversion."""
        outlast_signals()
        if self.as_json:
            from streamconv.report.result_json import result_fields

            print_json(result_fields(result))
        elif not self.quiet:
            from streamconv.report.messages import result_lines

            say(*result_lines(result))

    def show_part(self, result: "Result") -> None:
        """Print a line for one part of a conversion. JSON is only printed for the whole output."""
        outlast_signals()
        if not self.quiet:
            from streamconv.report.messages import part_line

            say(part_line(result), err=self.as_json)

    def show_verification(self, verification: "Verification") -> None:
        """Print the result of a verification. Raises VerifyFailed if something differs."""
        outlast_signals()
        if self.as_json:
            from streamconv.report.result_json import verification_fields

            print_json(verification_fields(verification))
        elif not self.quiet:
            from streamconv.report.messages import verification_lines

            say(*verification_lines(verification))
        verification.require()


def print_json(fields: dict[str, Any]) -> None:
    """Print one JSON document on stdout."""
    tokens = json.JSONEncoder(indent=2).iterencode(fields)
    while chunk := "".join(itertools.islice(tokens, JSON_TOKENS)):
        sys.stdout.write(
            chunk.replace("\x7f", "\\u007f")
        )  # json escapes all other control characters
    sys.stdout.write("\n")


def print_rich(renderable: Any) -> None:
    """Print tables on stdout, as wide as the terminal; in a file, as wide as COLUMNS, or 160."""
    console = new_console()
    if not console.is_terminal and "COLUMNS" not in console_environment():
        console = new_console(width=FILE_WIDTH)
    console.print(renderable)

"""What the commands print: results on stdout, progress on stderr."""

import itertools
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streamconv.report.terminal import new_console, say

if TYPE_CHECKING:
    from streamconv.execution.result import Result
    from streamconv.report.progress import Listener
    from streamconv.verification.result import Verification

JSON_TOKENS = 1000
"""Words of JSON that are printed at once. A plan of many tensors has a hundred thousand."""


@dataclass(frozen=True, slots=True)
class Output:
    """What the user wants to see of a command."""

    as_json: bool
    quiet: bool
    verbose: bool = False
    no_progress: bool = False

    def progress(self) -> "Listener":
        """Return the listener to events: a bar on a terminal, lines elsewhere, or nothing."""
        from streamconv.report.progress import Bar, Lines, Silence

        console = new_console(err=True)
        if self.quiet or self.no_progress:
            return Silence(console)
        return Bar(console) if console.is_terminal else Lines(console)

    def show_result(self, result: "Result") -> None:
        """Print what a conversion has done."""
        if self.as_json:
            from streamconv.report.result_json import result_fields

            print_json(result_fields(result))
        elif not self.quiet:
            from streamconv.report.messages import result_line
            from streamconv.report.plan_notes import config_line, notes_of

            changes = [f"config.json: {line}" for line in [config_line(result.plan)] if line]
            notes = [f"note: {note}" for note in notes_of(result.plan)]
            say(result_line(result), *changes, *notes)

    def show_part(self, result: "Result") -> None:
        """Print what one part of a conversion has done; JSON is for the whole output alone."""
        if not self.quiet:
            from streamconv.report.messages import part_line

            say(part_line(result), err=self.as_json)

    def show_verification(self, verification: "Verification") -> None:
        """Print what was found. Raises VerifyFailed if something differs."""
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
        sys.stdout.write(chunk.replace("\x7f", "\\u007f"))  # the only one that JSON leaves as it is
    sys.stdout.write("\n")


def print_rich(renderable: Any) -> None:
    """Print tables on stdout, as wide as the terminal, or 160 columns wide into a file."""
    console = new_console()
    if not console.is_terminal:
        console = new_console(width=160)
    console.print(renderable)

"""The one place through which text reaches the terminal. No escape sequence in it has an effect.

    say, print_rich ----> stdout
    libraries' prints, logs and warnings, tracebacks ----> stderr

Names in a checkpoint and answers of a server are untrusted text. Characters in it that are not
printable, such as escape sequences and marks that change the direction of text, are shown as Python
would write them: `\\x1b[31m`. That includes line breaks inside of a message, so that no text can
look like two messages.
"""

import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_EXTENT = re.compile("[1-9][0-9]{0,3}")
"""A number of columns or lines that a terminal may have."""
LONGEST_LOG = 2000
"""Characters of a library's log record or warning that are printed. Servers send warnings."""


def escape_line(text: str) -> str:
    """Return the text in one line, every character that is not printable as its escape."""
    return text if text.isprintable() else "".join(map(_escape_character, text))


def escape_lines(text: str) -> str:
    """Return the text with its line breaks; each of its lines as `escape_line` returns it."""
    return "\n".join(map(escape_line, text.split("\n")))


def _escape_character(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode("ascii")


def say(*lines: str, err: bool = False) -> None:
    """Print lines on stdout, or on stderr."""
    stream = sys.stderr if err else sys.stdout
    stream.write("".join(f"{escape_line(line)}\n" for line in lines))
    stream.flush()


def console_environment() -> dict[str, str]:
    """Return the environment without a COLUMNS or LINES that is not a size from 1 to 9,999.

    rich would end with an error for a number that it cannot read, and draw lines of any length.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ("COLUMNS", "LINES") or _EXTENT.fullmatch(value)
    }


def new_console(*, err: bool = False, **settings: Any) -> "Console":
    """Make a console of rich on stdout or stderr. It escapes all but rich's own sequences."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class EscapingConsole(Console):
        _environ = console_environment()

        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                if segment.control or segment.text.isprintable():
                    yield segment
                else:
                    yield Segment(escape_lines(segment.text), segment.style)

    stream = sys.stderr if err else sys.stdout
    file = stream.terminal if isinstance(stream, EscapingStream) else stream
    return EscapingConsole(file=file, highlight=False, markup=False, **settings)


class EscapingStream(io.TextIOBase):
    """A text stream in front of another one, for code that prints without `say`.

    It has no `buffer` on purpose: bytes written to it would not be escaped.
    """

    def __init__(self, terminal: TextIO) -> None:
        super().__init__()
        self.terminal = terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.terminal.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self.terminal.errors

    def write(self, text: str) -> int:
        self.terminal.write(escape_lines(text))
        return len(text)

    def flush(self) -> None:
        self.terminal.flush()

    def fileno(self) -> int:
        return self.terminal.fileno()

    def isatty(self) -> bool:
        return self.terminal.isatty()

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        """Do nothing: the other stream belongs to the interpreter."""


def _shortened(text: str) -> str:
    """Return the text of a library in one line that is not endless."""
    text = text if len(text) <= LONGEST_LOG else f"{text[: LONGEST_LOG - 3]}..."
    return escape_line(text)


class _EscapedRecord(logging.LogRecord):
    """A log record whose message is one line, whichever handler prints it."""

    def getMessage(self) -> str:  # noqa: N802 - the name that logging calls
        return _shortened(super().getMessage())


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    say(f"warning: {_shortened(str(message))}", err=True)


@contextmanager
def escaping() -> Iterator[None]:
    """Escape everything that this process and its libraries print."""
    stdout, stderr = sys.stdout, sys.stderr
    factory, show_warning = logging.getLogRecordFactory(), warnings.showwarning
    sys.stdout, sys.stderr = EscapingStream(stdout), EscapingStream(stderr)
    logging.setLogRecordFactory(_EscapedRecord)
    warnings.showwarning = _show_warning
    try:
        yield
    finally:
        sys.stdout, sys.stderr = stdout, stderr
        logging.setLogRecordFactory(factory)
        warnings.showwarning = show_warning

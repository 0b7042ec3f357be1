"""The displays of progress: a bar on a terminal, a line now and then elsewhere, or nothing.

`progress_facts.py` adds up events, `progress_lines.py` and `run_lines.py` put them into words.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Protocol

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live

from streamconv.report.progress_facts import AnyEvent, ProgressTracker
from streamconv.report.progress_lines import bar_lines, progress_fields, progress_line
from streamconv.report.run_lines import Chronicle
from streamconv.report.terminal import escape_line

Clock = Callable[[], float]

LINE_SECONDS = 30.0
"""Time between two lines, if there is no terminal."""
DUMB_LINE_SECONDS = 10.0
"""The same on a terminal that cannot move its cursor."""
REFRESH_PER_SECOND = 8


class Listener(Protocol):
    """Receives events; a context manager, so that it can restore the terminal."""

    def __call__(self, event: AnyEvent) -> None: ...

    def say(self, text: str) -> None:
        """Print a line that stays, above the bar."""

    def __enter__(self) -> "Listener": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Bar:
    """A bar with percent, bytes, rate, times, shard and layer, below the lines of the run."""

    def __init__(
        self, console: Console, clock: Clock = time.monotonic, *, verbose: bool = False
    ) -> None:
        self._console = console
        self._clock = clock
        self._tracker = ProgressTracker(clock())
        self._chronicle = Chronicle(verbose)
        self._live = Live(
            console=console,
            get_renderable=lambda: self,
            refresh_per_second=REFRESH_PER_SECOND,
            transient=True,
            # what other code prints must not pass through rich: sys.stdout and sys.stderr escape it
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __call__(self, event: AnyEvent) -> None:
        now = self._clock()
        self._tracker.add(event, now)
        for line in self._chronicle.lines(event, now):
            self.say(line)

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        facts = self._tracker.facts(self._clock())
        yield from bar_lines(facts, options.max_width, ascii_only=options.ascii_only)

    def __enter__(self) -> "Bar":
        self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()


class Lines:
    """The same facts as a line from time to time, for logs and terminals without a cursor.

    With `as_json`, each line is a JSON document, and no other lines are printed.
    """

    def __init__(
        self,
        console: Console,
        every: float = LINE_SECONDS,
        clock: Clock = time.monotonic,
        *,
        verbose: bool = False,
        as_json: bool = False,
    ) -> None:
        self._console = console
        self._every = every
        self._clock = clock
        self._as_json = as_json
        self._said = clock()
        self._tracker = ProgressTracker(self._said)
        self._chronicle = Chronicle(verbose)

    def __call__(self, event: AnyEvent) -> None:
        now = self._clock()
        self._tracker.add(event, now)
        for line in self._chronicle.lines(event, now):
            self.say(line)
        facts = self._tracker.facts(now)
        if facts.done and now - self._said >= self._every:
            self._said = now
            if self._as_json:
                _add_line(self._console, json.dumps(progress_fields(facts)))
            else:
                self.say(progress_line(facts))

    def say(self, text: str) -> None:
        if not self._as_json:
            _add_line(self._console, text)

    def __enter__(self) -> "Lines":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None


class Silence(Lines):
    """No progress: prints only what `say` is called with."""

    def __call__(self, event: AnyEvent) -> None:
        return None


def _add_line(console: Console, text: str) -> None:
    """Write a line to the stream of a console. Ignore errors: a full log must not stop the run."""
    with suppress(OSError, ValueError):
        console.file.write(f"{escape_line(text)}\n")
        console.file.flush()

"""Progress of a run: a bar on a terminal, a line every half minute elsewhere."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from streamconv.execution.events import Event, PieceWritten, Planned, Prepared
from streamconv.planning.plan import Plan
from streamconv.planning.shards import StepBytes
from streamconv.units import show_duration, show_size
from streamconv.verification.result import VerifyProgress, VerifyStarted

LINE_SECONDS = 30.0
"""Time between two lines, if there is no terminal."""


class Listener(Protocol):
    """Receives events; a context manager, so that it can restore the terminal."""

    def __call__(self, event: Event | VerifyStarted | VerifyProgress) -> None: ...

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
    """Bytes, rate, time left and the current layer, on a terminal."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            get_time=clock,
            transient=True,
            # what others print keeps its own way to the terminal, on which it is escaped
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._plan: Plan | None = None
        self._task = self._progress.add_task("planning", total=None)

    def __call__(self, event: Event | VerifyStarted | VerifyProgress) -> None:
        if isinstance(event, Planned):
            self._plan = event.plan
            total = sum(shard.nbytes for shard in event.plan.shards)
            self._progress.update(self._task, total=total, description="writing")
        elif isinstance(event, Prepared):
            self._progress.update(self._task, total=event.left_bytes)
        elif isinstance(event, PieceWritten):
            self._progress.update(
                self._task,
                advance=event.piece.nbytes,
                description=_layer(self._plan, event) or "writing",
            )
        elif isinstance(event, VerifyStarted):
            self._progress.reset(self._task, total=event.total, description="verifying")
        elif isinstance(event, VerifyProgress):
            self._progress.update(self._task, advance=event.nbytes)
        else:
            self._progress.update(self._task, description="done")

    def say(self, text: str) -> None:
        _print(self._progress.console, text)

    def __rich__(self) -> RenderableType:
        return self._progress.get_renderable()

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()


class Lines:
    """Bytes, rate, time left and the current layer in a line every half minute, for logs."""

    def __init__(self, console: Console, every: float = LINE_SECONDS) -> None:
        self._console = console
        self._every = every
        self._plan: Plan | None = None
        self._total = self._done = 0
        self._begin = self._said = time.monotonic()

    def __call__(self, event: Event | VerifyStarted | VerifyProgress) -> None:
        if isinstance(event, Planned):
            self._plan = event.plan
            self._total = sum(shard.nbytes for shard in event.plan.shards)
        elif isinstance(event, Prepared):
            self._total = event.left_bytes
        elif isinstance(event, PieceWritten):
            self._advance(event.piece.nbytes, _layer(self._plan, event))
        elif isinstance(event, VerifyStarted):
            self._total, self._done = event.total, 0
            self._begin = time.monotonic()
        elif isinstance(event, VerifyProgress):
            self._advance(event.nbytes, "verifying")

    def _advance(self, nbytes: int, where: str) -> None:
        self._done += nbytes
        now = time.monotonic()
        if now - self._said >= self._every:
            self._said = now
            self._say_rate(now - self._begin, where)

    def _say_rate(self, seconds: float, layer: str) -> None:
        rate = self._done / seconds
        left = show_duration(max(self._total - self._done, 0) / rate)
        self.say(
            f"{show_size(self._done)} of {show_size(self._total)}, {show_size(rate)}/s, "
            f"{left} left{f', {layer}' if layer else ''}"
        )

    def say(self, text: str) -> None:
        _print(self._console, text)

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
    """No progress; only the lines of `say`."""

    def __call__(self, event: Event | VerifyStarted | VerifyProgress) -> None:
        return None


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _layer(plan: Plan | None, event: PieceWritten) -> str:
    """Return the layer that a piece ends in, such as `model.layers.3`; empty if none."""
    steps = [part.step for part in event.piece.parts if isinstance(part, StepBytes)]
    layer = plan.layer(steps[-1]) if plan and steps else None
    return f"{layer[0]}{layer[1]}" if layer else ""

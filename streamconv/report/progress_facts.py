"""Adds up the events of a run to facts about its progress. Nothing here prints."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from streamconv.execution.events import Event, PieceWritten, Planned, Prepared
from streamconv.planning.plan import Plan
from streamconv.planning.shards import StepBytes
from streamconv.sinks.base import HashProgress, HashStarted
from streamconv.units import show_duration, show_size
from streamconv.verification.result import ProgressEvent, VerifyProgress, VerifyStarted

RATE_SECONDS = 20.0
"""Time over which the rate is measured, up to now."""
SAMPLE_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class CountStarted:
    """Work begins whose progress is counted in items instead of bytes."""

    activity: str
    total: int
    noun: str
    """What is counted, in the plural."""


@dataclass(frozen=True, slots=True)
class Counted:
    """One more item is done."""

    where: str
    """Name of the item."""


AnyEvent = Event | ProgressEvent | CountStarted | Counted
"""Everything that a display of progress is called with."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. Sizes in bytes, unless `noun` says what else is counted."""

    activity: str
    """Such as `writing`."""
    total: int | None = None
    """None if it is not known yet."""
    done: int = 0
    seconds: float = 0.0
    """Time since the activity began."""
    rate: float | None = None
    """Bytes or items a second, lately; None if nothing has been done lately."""
    where: str = ""
    """The layer, tensor or file that was done last; untrusted text."""
    shard: tuple[int, int] | None = None
    """Number of the shard that was written or compared last, from 1, and number of all shards."""
    noun: str = ""

    @property
    def share(self) -> float:
        """The fraction that is done, from 0 to 1."""
        return min(self.done / self.total, 1.0) if self.total else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimated time left; None if it cannot be estimated."""
        if self.total is None or not self.rate:
            return None
        return max(self.total - self.done, 0) / self.rate


class ProgressTracker:
    """Adds up events. The time `now` is in seconds, of any clock."""

    def __init__(self, now: float) -> None:
        self._plan: Plan | None = None
        self._shards: Mapping[str, int] = {}
        self._samples: deque[tuple[float, int]] = deque()
        self._start("reading headers", None, now)

    def add(self, event: AnyEvent, now: float) -> None:
        """Take an event into account."""
        if isinstance(event, Planned):
            self._plan = event.plan
            self._start("writing", sum(shard.nbytes for shard in event.plan.shards), now)
            self._shard_count = len(event.plan.shards)
        elif isinstance(event, Prepared):
            self._start("writing", event.left_bytes, now)
            self._shard_count = len(event.plan.shards)
        elif isinstance(event, PieceWritten):
            self._shard = event.piece.shard + 1
            self._advance(event.piece.nbytes, _layer(self._plan, event), now)
        elif isinstance(event, HashStarted):
            self._start("computing SHA-256", event.total, now)
        elif isinstance(event, VerifyStarted):
            self._start("verifying", event.total, now)
            self._shards = {name: number for number, name in enumerate(event.shards, start=1)}
            self._shard_count = len(event.shards)
        elif isinstance(event, VerifyProgress):
            self._shard = self._shards.get(event.file, 0)
            self._advance(event.nbytes, event.where, now)
        elif isinstance(event, HashProgress):
            self._advance(event.nbytes, event.where, now)
        elif isinstance(event, CountStarted):
            self._start(event.activity, event.total, now, event.noun)
        elif isinstance(event, Counted):
            self._advance(1, event.where, now)

    def facts(self, now: float) -> Progress:
        """Return how far the run is."""
        begin, before = self._samples[0]
        made, elapsed = self._done - before, now - begin
        return Progress(
            self._activity,
            self._total,
            self._done,
            now - self._begin,
            made / elapsed if made and elapsed > 0 else None,
            self._where,
            (self._shard, self._shard_count) if self._shard else None,
            self._noun,
        )

    def _start(self, activity: str, total: int | None, now: float, noun: str = "") -> None:
        self._activity, self._total, self._noun = activity, total, noun
        self._begin, self._done, self._where = now, 0, ""
        self._shard, self._shard_count = 0, 0
        self._samples.clear()
        self._samples.append((now, 0))

    def _advance(self, count: int, where: str, now: float) -> None:
        self._done += count
        self._where = where
        if now - self._samples[-1][0] >= SAMPLE_SECONDS:
            self._samples.append((now, self._done))
        while len(self._samples) > 1 and now - self._samples[1][0] >= RATE_SECONDS:
            self._samples.popleft()


def amount(progress: Progress) -> str:
    """Return `22.6 GB of 61.1 GB`, or `21 of 48 families`."""
    if progress.total is None:
        return ""
    if progress.noun:
        return f"{progress.done} of {progress.total} {progress.noun}"
    return f"{show_size(progress.done)} of {show_size(progress.total)}"


def speed(progress: Progress) -> str:
    """Return `1.90 GB/s`; empty if it is not known, or no bytes are counted."""
    if progress.noun or progress.rate is None:
        return ""
    return f"{show_size(progress.rate)}/s"


def times(progress: Progress) -> list[str]:
    """Return elapsed time and time left, each with its label."""
    left = progress.seconds_left
    return [
        f"{show_duration(progress.seconds)} elapsed",
        *([] if left is None else [f"{show_duration(left)} left"]),
    ]


def place(progress: Progress) -> list[str]:
    """Return `shard 6 of 17` and the layer, as far as they are known."""
    shard = f"shard {progress.shard[0]} of {progress.shard[1]}" if progress.shard else ""
    return [text for text in (shard, progress.where) if text]


def _layer(plan: Plan | None, event: PieceWritten) -> str:
    """Return the layer that a piece ends in, such as `model.layers.3`; empty if none."""
    last = next((p for p in reversed(event.piece.parts) if isinstance(p, StepBytes)), None)
    layer = plan.layer(last.step) if plan and last else None
    return f"{layer[0]}{layer[1]}" if layer else ""

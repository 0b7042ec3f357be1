"""The lines that a run prints on stderr: each activity that begins, and with -v what is done."""

from collections import Counter
from collections.abc import Iterator

from streamconv.execution.events import Completed, PieceWritten, Planned, Prepared
from streamconv.planning.plan import Plan
from streamconv.report.outcome import from_to
from streamconv.report.progress_facts import AnyEvent, CountStarted
from streamconv.report.table_parts import counted
from streamconv.sinks.base import HashStarted
from streamconv.units import show_duration, show_size
from streamconv.verification.result import FileVerified, VerifyStarted


class Chronicle:
    """Turns events into lines: the first line of each activity, and with -v all details."""

    def __init__(self, verbose: bool) -> None:
        self._verbose = verbose
        self._plan: Plan | None = None
        self._begin = 0.0
        self._written = Counter[int]()

    def lines(self, event: AnyEvent, now: float) -> Iterator[str]:
        """Yield the lines for an event; `now` is the time in seconds."""
        if isinstance(event, Planned):
            self._plan, self._begin = event.plan, now
        elif isinstance(event, Prepared):  # before this, the target may still be refused
            yield opening_line(event.plan)
            yield from self._details(event, now) if self._verbose else ()
        elif isinstance(event, HashStarted):
            yield f"computing SHA-256 of {show_size(event.total)}"
        elif isinstance(event, VerifyStarted):
            self._begin = now
            if event.total:
                yield f"verifying {show_size(event.total)}"
        elif isinstance(event, CountStarted):
            yield f"{event.activity} {event.total} {event.noun}"
        elif self._verbose:
            yield from self._details(event, now)

    def _details(self, event: AnyEvent, now: float) -> Iterator[str]:
        """Yield the lines that only -v shows."""
        if isinstance(event, Prepared):
            yield memory_line(event.plan)
            yield (
                f"{counted(len(event.missing), 'shard')} to write, "
                f"{show_size(event.left_bytes)}; {len(event.finished)} complete before"
            )
        elif isinstance(event, PieceWritten) and self._plan is not None:
            number, shard = event.piece.shard, self._plan.shards[event.piece.shard]
            self._written[number] += event.piece.nbytes
            if self._written[number] == shard.nbytes:
                tensors = counted(len(shard.steps), "tensor")
                yield (
                    f"{shard.name} is written: {tensors}, {show_size(shard.nbytes)}, "
                    f"{show_duration(now - self._begin)} elapsed"
                )
        elif isinstance(event, FileVerified):
            yield f"{_compared(event)}, {show_duration(now - self._begin)} elapsed"
        elif isinstance(event, Completed) and self._plan is not None:
            others = counted(len(self._plan.copied), "other file")
            yield f"index, manifest and {others} are written to {event.folder}"


def _compared(file: FileVerified) -> str:
    """Return how much of a file has been compared."""
    if file.nbytes == file.total:
        return f"{file.name} is compared: {show_size(file.total)}"
    done, total = show_size(file.nbytes), show_size(file.total)
    return f"{file.name} is compared in part: {done} of {total}"


def opening_line(plan: Plan) -> str:
    """Return the line on what a run will do: source and result, bytes, files and workers."""
    files = counted(len(plan.checkpoint.files), "file")
    shards = counted(len(plan.shards), "shard")
    workers = counted(plan.memory.jobs, "worker")
    return f"{from_to(plan)}: {show_size(plan.write_bytes)}, {files} to {shards}, {workers}"


def memory_line(plan: Plan) -> str:
    """Return the projected peak memory, and the limit."""
    allowed = "" if plan.memory.allowed is None else f" of {show_size(plan.memory.allowed)} allowed"
    return f"memory: {show_size(plan.memory.peak)} at most{allowed}"

"""Runs a plan. Decides nothing: what, where and with how much memory stands in the plan."""

from collections.abc import Generator, Iterable, Iterator, Sequence

from streamconv.errors import SourceChanged
from streamconv.execution.events import (
    Committed,
    Completed,
    Event,
    PieceWritten,
    Planned,
    Prepared,
    ShareWritten,
)
from streamconv.execution.worker import Worker
from streamconv.planning.plan import Piece, Plan
from streamconv.sinks.base import OpenOutput, Sink
from streamconv.sources.base import Source
from streamconv.system.cancellation import CancelToken
from streamconv.system.worker_threads import map_unordered


def execute(
    plan: Plan,
    source: Source,
    sink: Sink,
    shards: Sequence[int] | None = None,
    *,
    commits: bool = True,
    request: bytes | None = None,
    cancel: CancelToken | None = None,
) -> Generator[Event]:
    """Convert; yields what has happened. The result appears before the last event, or not at all.

    It is complete one event earlier, for who wants to look at it before it takes its place.

    `shards` are those to make, all unless given; without `commits` another process closes the
    output, and the last event is that these are written. `request` is saved with the output until
    it is committed.
    Raises what source and sink raise. Where the caller stops listening, the run stops, and so it
    does when `cancel` is set, with Interrupted; the run sets it when it ends early.
    Then, and where something fails, finished shards are all that is left.
    """
    yield Planned(plan)
    output = sink.prepare(plan)
    try:
        if request is not None:
            output.save_request(request)
        finished = frozenset(output.finished)
        wanted = range(len(plan.shards)) if shards is None else shards
        missing = tuple(number for number in wanted if number not in finished)
        yield Prepared(plan, finished, missing)
        yield from _write_pieces(plan, missing, source, output, cancel or CancelToken())
        if not commits:
            output.release()
        yield ShareWritten()
        if commits:
            yield Completed(output.complete(source))
            output.commit()
    except SourceChanged:
        output.abort(keep=False)
        raise
    except BaseException:
        output.abort()
        raise
    if commits:
        yield Committed()


def _write_pieces(
    plan: Plan, shards: Iterable[int], source: Source, output: OpenOutput, cancel: CancelToken
) -> Iterator[PieceWritten]:
    """Write the pieces of these shards by as many workers as the plan has jobs."""

    def write(worker: Worker, piece: Piece) -> Iterator[PieceWritten]:
        yield PieceWritten(piece, worker.write(piece))

    def make_worker() -> Worker:
        return Worker(plan, source, output, cancel)

    return map_unordered(plan.pieces(shards), plan.memory.jobs, make_worker, write, cancel)

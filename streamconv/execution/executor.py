"""Runs a plan. Decides nothing: which bytes go where, and in how much memory, is in the plan."""

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
from streamconv.sources.wrappers.fetch_ahead import FetchAhead
from streamconv.system.cancellation import CancelToken
from streamconv.system.lookahead import with_lookahead
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
    """Write shards as planned and commit the result, yielding each event.

    The result appears at the target right before the last event, Committed, or not at all. One
    event earlier, at Completed, it can be verified. If the caller closes the generator, or anything
    fails, only finished shards are kept.

    Args:
        plan: Which bytes go where.
        source: Where they are read.
        sink: Where they are written.
        shards: Numbers of the shards to write. Default: all.
        commits: False if another process commits; the last event is then ShareWritten.
        request: Saved with the output until it is committed, for `finish`.
        cancel: Ends the run when it is set. It is also set here if the run ends early.

    Raises:
        Interrupted: `cancel` was set.
        SourceChanged: The source is not what was planned; finished shards are removed, too.
        StreamconvError: What the source and the sink raise.
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
            yield Completed((yield from output.complete(source)))
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
    """Write the pieces of these shards by as many workers as are planned."""

    def write(worker: Worker, task: tuple[Piece, tuple[Piece, ...]]) -> Iterator[PieceWritten]:
        piece, coming = task
        worker.expect(coming)
        yield PieceWritten(piece, worker.write(piece))

    tasks = with_lookahead(plan.pieces(shards), lambda piece: piece.nbytes, plan.memory.read_ahead)
    with FetchAhead(source) as fetched:
        yield from map_unordered(
            tasks, plan.memory.writers, lambda: Worker(plan, fetched, output, cancel), write, cancel
        )

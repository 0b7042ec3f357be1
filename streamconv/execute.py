"""Runs a plan. Decides nothing: what, where and with how much memory stands in the plan."""

import itertools
import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from xxhash import xxh3_128

from streamconv.axes import Rearrangement
from streamconv.checkpoint import TensorInfo
from streamconv.errors import SourceChanged
from streamconv.files import aligned_buffer
from streamconv.plan import Piece, Plan
from streamconv.rearrange import Rearranger
from streamconv.shards import Frame, Part, Segment
from streamconv.sinks import Sink
from streamconv.sinks.staging import Staging
from streamconv.sources import Read, Source
from streamconv.steps import Step
from streamconv.stop import Stop


@dataclass(frozen=True, slots=True)
class Planned:
    """The plan is made; nothing has been written yet."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Prepared:
    """The place is taken; shards that an earlier run has finished are not made again."""

    plan: Plan
    finished: frozenset[int]
    missing: tuple[int, ...]
    """Numbers of the shards that are to be made."""

    @property
    def left_bytes(self) -> int:
        """Their bytes."""
        return sum(self.plan.shards[number].nbytes for number in self.missing)


@dataclass(frozen=True, slots=True)
class PieceWritten:
    """A piece has been handed to the disk."""

    piece: Piece
    digest: str


@dataclass(frozen=True, slots=True)
class ShareWritten:
    """Every shard that this process makes is durable."""


@dataclass(frozen=True, slots=True)
class Complete:
    """All of the result is durable, and nothing of it at its place yet."""

    folder: Path
    """Where it lies until it is moved."""


@dataclass(frozen=True, slots=True)
class Committed:
    """The result stands at its place."""


Event = Planned | Prepared | PieceWritten | ShareWritten | Complete | Committed


def execute(
    plan: Plan,
    source: Source,
    sink: Sink,
    shards: Sequence[int] | None = None,
    *,
    commits: bool = True,
    stop: Stop | None = None,
) -> Generator[Event]:
    """Convert; yields what has happened. The result appears before the last event, or not at all.

    It is complete one event earlier, for who wants to look at it before it takes its place.

    `shards` are those to make, all unless given; without `commits` another process closes the
    output, and the last event is that these are written.
    Raises what source and sink raise. Where the caller stops listening, the run stops, and so it
    does when `stop` is set, with Interrupted; the run sets it for all who wait when it ends early.
    Then, and where something fails, finished shards are all that is left.
    """
    yield Planned(plan)
    try:
        finished = frozenset(sink.prepare(plan))
        wanted = range(len(plan.shards)) if shards is None else shards
        missing = tuple(number for number in wanted if number not in finished)
        yield Prepared(plan, finished, missing)
        yield from _written(plan, missing, source, sink, stop or Stop())
        if not commits:
            sink.leave()
        yield ShareWritten()
        if commits:
            yield Complete(sink.complete(source))
            sink.commit()
    except SourceChanged:
        sink.abort(keep=False)
        raise
    except BaseException:
        sink.abort()
        raise
    if commits:
        yield Committed()


def _written(
    plan: Plan, shards: Iterable[int], source: Source, sink: Sink, stop: Stop
) -> Iterator[PieceWritten]:
    pieces = plan.pieces(shards)
    taking = threading.Lock()
    events: queue.Queue[PieceWritten | BaseException | None] = queue.Queue()

    def work() -> None:
        try:
            worker = _Worker(plan, source, sink, writer)
            while not stop.is_set():
                with taking:
                    piece = next(pieces, None)
                if piece is None:
                    break
                events.put(PieceWritten(piece, worker.write(piece)))
            worker.drain()
            events.put(None)
        except BaseException as error:
            events.put(error)
            stop.set()

    with ThreadPoolExecutor(plan.memory.jobs, "writer") as writer:
        workers = [
            threading.Thread(target=work, name=f"worker-{k}") for k in range(plan.memory.jobs)
        ]
        with stop.during(*workers):
            for _ in workers:
                while (event := events.get()) is not None:
                    if isinstance(event, BaseException):
                        raise event
                    yield event


class _Worker:
    """One thread's buffers, used again for every piece."""

    def __init__(self, plan: Plan, source: Source, sink: Sink, writer: ThreadPoolExecutor) -> None:
        self._plan = plan
        self._source = source
        self._sink = sink
        self._staging = Staging(plan.memory.staging, writer)
        self._buffer = aligned_buffer(plan.memory.source_buffer)
        self._shard: int | None = None
        self._holds: object = None
        self._rearrangers: dict[object, Rearranger] = {}

    def write(self, piece: Piece) -> str:
        """Make a piece and write it; returns its digest."""
        digest = xxh3_128()
        staging = self._staging
        if piece.shard != self._shard:
            # so that no more shards are half done than there are workers
            self.drain()
            self._shard = piece.shard
        staging.begin(
            piece.offset, lambda offset, data: self._sink.write(piece.shard, offset, data)
        )
        for is_copy, parts in itertools.groupby(piece.parts, _is_copy):
            if is_copy:
                self._copy([part for part in parts if isinstance(part, Segment)], digest)
                continue
            for part in parts:
                if isinstance(part, Frame):
                    self._put(memoryview(self._plan.frame(piece, part)), digest)
                else:
                    self._rearrange(part.step, part.unit, digest)
        self._sink.note(piece, digest.hexdigest())
        staging.end()
        return digest.hexdigest()

    def drain(self) -> None:
        """Wait until all pieces are written."""
        self._staging.drain()

    def _put(self, data: memoryview, digest: xxh3_128) -> None:
        while data:
            room = self._staging.room(len(data))
            room[:] = data[: len(room)]
            digest.update(room)
            self._staging.commit(room)
            data = data[len(room) :]

    def _copy(self, segments: Sequence[Segment], digest: xxh3_128) -> None:
        """Bytes that keep their order go from the source straight into staging, a room at once."""
        left = sum(segment.nbytes for segment in segments)
        reads: list[Read] = []
        room = free = memoryview(b"")
        for info, start, end in itertools.chain.from_iterable(map(_runs, segments)):
            position = start
            while position < end:
                if not free:
                    room = free = self._staging.room(left)
                buffer = free[: end - position]
                reads.append(Read(info, position, buffer))
                position += len(buffer)
                left -= len(buffer)
                free = free[len(buffer) :]
                if not free:
                    self._source.read(reads)
                    digest.update(room)
                    self._staging.commit(room)
                    reads.clear()

    def _rearrange(self, step: Step, unit: int, digest: xxh3_128) -> None:
        self._gather(step, step.how, unit)
        kind = (step.how.shape, step.how.strides, step.how.itemsize, step.how.start)
        if kind not in self._rearrangers:
            self._rearrangers[kind] = Rearranger(step.how, self._buffer)
        for panel in self._rearrangers[kind].panels:
            room = self._staging.reserve(panel.nbytes)
            panel.write_into(room)
            digest.update(room)
            self._staging.commit(room)

    def _gather(self, step: Step, how: Rearrangement, unit: int) -> None:
        """Read a unit's inputs side by side, unless the unit before it had the same ones."""
        reads = [(step.inputs[which], offset) for which, offset in how.reads(unit)]
        wanted = ([(info.name, offset) for info, offset in reads], how.run)
        if wanted == self._holds:
            return
        self._holds = None
        self._source.read(
            [
                Read(info, offset, self._buffer[number * how.run : (number + 1) * how.run])
                for number, (info, offset) in enumerate(reads)
            ]
        )
        self._holds = wanted


def _is_copy(part: Part) -> bool:
    return isinstance(part, Segment) and part.step.how.is_copy


def _runs(segment: Segment) -> Iterator[tuple[TensorInfo, int, int]]:
    """What a segment is copied from, in order: a tensor, and begin and end in its bytes."""
    how = segment.step.how
    reads = how.reads(segment.unit)
    position = segment.begin
    while position < segment.end:
        number, within = divmod(position, how.run)
        which, offset = reads[number]
        nbytes = min(how.run - within, segment.end - position)
        yield segment.step.inputs[which], offset + within, offset + within + nbytes
        position += nbytes

"""One worker of a run: makes pieces as the plan says, hashes them, writes them."""

import itertools
from collections.abc import Iterator, Sequence

from xxhash import xxh3_128

from streamconv.checkpoint.types import TensorInfo
from streamconv.execution.transpose import Transposer
from streamconv.planning.plan import Piece, Plan
from streamconv.planning.rearrangement import Rearrangement
from streamconv.planning.shards import FramingBytes, ShardPart, StepBytes
from streamconv.sinks.base import OpenOutput
from streamconv.sinks.write_buffer import WriteBuffer
from streamconv.sources.base import Read, Source
from streamconv.system.cancellation import CancelToken
from streamconv.system.file_ops import new_buffer


class Worker:
    """One thread's buffers, used again for every piece."""

    def __init__(self, plan: Plan, source: Source, output: OpenOutput, cancel: CancelToken) -> None:
        self._cancel = cancel
        self._plan = plan
        self._source = source
        self._output = output
        self._staging = WriteBuffer(plan.memory.staging)
        self._buffer = new_buffer(plan.memory.source_buffer)
        self._holds: object = None
        self._rearrangers: dict[object, Transposer] = {}

    def write(self, piece: Piece) -> str:
        """Make a piece and write it; returns its digest."""
        digest = xxh3_128()
        staging = self._staging
        staging.begin(
            piece.offset, lambda offset, data: self._output.write(piece.shard, offset, data)
        )
        for is_copy, parts in itertools.groupby(piece.parts, _is_copy):
            if is_copy:
                self._copy([part for part in parts if isinstance(part, StepBytes)], digest)
                continue
            for part in parts:
                if isinstance(part, FramingBytes):
                    self._put(memoryview(self._plan.framing_bytes(piece, part)), digest)
                else:
                    self._rearrange(part, digest)
        self._output.record_digest(piece, digest.hexdigest())
        staging.flush()
        return digest.hexdigest()

    def _put(self, data: memoryview, digest: xxh3_128) -> None:
        while data:
            room = self._staging.next(len(data))
            room[:] = data[: len(room)]
            self._made(room, digest)
            data = data[len(room) :]

    def _copy(self, segments: Sequence[StepBytes], digest: xxh3_128) -> None:
        """Bytes that keep their order go from the source straight into staging, a room at once."""
        left = sum(segment.nbytes for segment in segments)
        reads: list[Read] = []
        room = free = memoryview(b"")
        for info, start, end in itertools.chain.from_iterable(map(_runs, segments)):
            position = start
            while position < end:
                if not free:
                    room = free = self._staging.next(left)
                buffer = free[: end - position]
                reads.append(Read(info, position, buffer))
                position += len(buffer)
                left -= len(buffer)
                free = free[len(buffer) :]
                if not free:
                    self._source.read(reads)
                    self._made(room, digest)
                    reads.clear()

    def _rearrange(self, segment: StepBytes, digest: xxh3_128) -> None:
        how = segment.how
        self._gather(segment.inputs, how, segment.unit)
        kind = (how.shape, how.strides, how.itemsize, how.start)
        if kind not in self._rearrangers:
            self._rearrangers[kind] = Transposer(how, self._buffer)
        for panel in self._rearrangers[kind].panels:
            room = self._staging.exactly(panel.nbytes)
            panel.write_into(room)
            self._made(room, digest)

    def _made(self, data: memoryview, digest: xxh3_128) -> None:
        """The next bytes of a piece are in staging; no more follow where the run has ended."""
        digest.update(data)
        self._cancel.check()

    def _gather(self, inputs: Sequence[TensorInfo], how: Rearrangement, unit: int) -> None:
        """Read a unit's inputs side by side, unless the unit before it had the same ones."""
        reads = [(inputs[which], offset) for which, offset in how.reads(unit)]
        wanted = ([(info.name, offset) for info, offset in reads], how.input_bytes)
        if wanted == self._holds:
            return
        self._holds = None
        self._source.read(
            [
                Read(
                    info,
                    offset,
                    self._buffer[number * how.input_bytes : (number + 1) * how.input_bytes],
                )
                for number, (info, offset) in enumerate(reads)
            ]
        )
        self._holds = wanted


def _is_copy(part: ShardPart) -> bool:
    return isinstance(part, StepBytes) and part.how.is_copy


def _runs(segment: StepBytes) -> Iterator[tuple[TensorInfo, int, int]]:
    """What a segment is copied from, in order: a tensor, and begin and end in its bytes."""
    how, inputs = segment.how, segment.inputs
    reads = how.reads(segment.unit)
    position = segment.begin
    while position < segment.end:
        number, within = divmod(position, how.input_bytes)
        which, offset = reads[number]
        nbytes = min(how.input_bytes - within, segment.end - position)
        yield inputs[which], offset + within, offset + within + nbytes
        position += nbytes

"""One worker of a run: makes pieces as the plan says, hashes them, and writes them."""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from xxhash import xxh3_128

from streamconv.checkpoint.types import TensorInfo
from streamconv.execution.transpose import PanelMemory, Transposer
from streamconv.planning.plan import Piece, Plan
from streamconv.planning.rearrangement import Rearrangement
from streamconv.planning.shards import FramingBytes, ShardPart, StepBytes
from streamconv.sinks.base import OpenOutput
from streamconv.sinks.write_buffer import WriteBuffer
from streamconv.sources.base import ByteRange, Read, Source, expect
from streamconv.system.buffers import new_buffer
from streamconv.system.cancellation import CancelToken

BATCH_READS = 1024
"""Reads that are asked for at once; the system fills as many buffers in one call."""
MOST_EXPECTED = 4096
"""Most ranges that are announced to a source at once. If there are more, they are tiny, and the
system's own reading ahead brings them in."""


class Worker:
    """Writes pieces, one at a time. Keeps its buffers from piece to piece; one for each thread."""

    def __init__(self, plan: Plan, source: Source, output: OpenOutput, cancel: CancelToken) -> None:
        self._plan = plan
        self._source = source
        self._output = output
        self._cancel = cancel
        self._buffer = WriteBuffer(plan.memory.staging)
        self._inputs = _UnitInputs(source, plan.memory.source_buffer)
        self._transposers: dict[object, Transposer] = {}
        self._panels = PanelMemory()
        self._digest = xxh3_128()

    def expect(self, pieces: Sequence[Piece]) -> None:
        """Let the source fetch what pieces are made of, which are written soon."""
        ranges = (each for piece in pieces for part in piece.parts for each in _read_for(part))
        expect(self._source, list(itertools.islice(ranges, MOST_EXPECTED)))

    def write(self, piece: Piece) -> str:
        """Write a piece and return its digest.

        Raises Interrupted if the run is canceled meanwhile, and the errors of source and output.
        """
        self._digest.reset()
        # a function that refers to the worker would keep its buffers alive after the run
        write = functools.partial(_write_run, piece, self._output, self._digest, self._cancel)
        self._buffer.begin(piece.offset, write)
        following = iter(piece.parts)
        for run in _runs(piece.parts):
            parts = itertools.islice(following, run.count)
            if run.is_copy:
                self._copy(parts, run.nbytes)
                continue
            for part in parts:
                if isinstance(part, FramingBytes):
                    for framing in self._plan.framing_bytes(piece, part):
                        self._write_framing(framing)
                else:
                    self._transpose(part)
        if not piece.nbytes:
            self._output.record_digest(piece, self._digest.hexdigest())
        self._buffer.flush()
        return self._digest.hexdigest()

    def _write_framing(self, framing: bytes) -> None:
        """Write bytes of the file format, such as a header."""
        left = memoryview(framing)
        while left:
            room = self._buffer.next(len(left))
            room[:] = left[: len(room)]
            left = left[len(room) :]

    def _copy(self, parts: Iterable[ShardPart], left: int) -> None:
        """Read bytes that keep their order straight into the output buffer, in large batches.

        Args:
            parts: The parts that they are of.
            left: Their number.
        """
        reads: list[Read] = []
        free = memoryview(b"")
        for info, begin, end in _copied_ranges(parts):
            position = begin
            while position < end:
                if not free:
                    free = self._buffer.next(left)
                buffer = free[: end - position]
                reads.append(Read(info, position, buffer))
                position += len(buffer)
                left -= len(buffer)
                free = free[len(buffer) :]
                if not free or len(reads) == BATCH_READS:
                    self._source.read(reads)
                    reads.clear()

    def _transpose(self, part: StepBytes) -> None:
        """Write a unit whose bytes do not keep their order, panel by panel."""
        how = part.how
        self._inputs.load(part.inputs, how, part.unit)
        key = (how.shape, how.strides, how.itemsize, how.start)
        if key not in self._transposers:
            self._transposers[key] = Transposer(how, self._inputs.memory, self._panels)
        for panel in self._transposers[key].panels:
            panel.write_into(self._buffer.exactly(panel.nbytes))


def _write_run(
    piece: Piece,
    output: OpenOutput,
    digest: xxh3_128,
    cancel: CancelToken,
    offset: int,
    data: memoryview,
) -> None:
    """Hash and write bytes of a piece that follow those before. Raises what `Worker.write` does."""
    cancel.check()
    digest.update(data)
    if offset + len(data) == piece.offset + piece.nbytes:
        # before the last bytes of the shard are written, which complete it
        output.record_digest(piece, digest.hexdigest())
    output.write(piece.shard, offset, data)


class _UnitInputs:
    """The input bytes of one unit, one input after the other."""

    def __init__(self, source: Source, nbytes: int) -> None:
        self.memory = new_buffer(nbytes)
        self._source = source
        self._loaded: object = None

    def load(self, inputs: Sequence[TensorInfo], how: Rearrangement, unit: int) -> None:
        """Read the inputs of a unit, unless the unit before it had the same ones."""
        nbytes = how.input_bytes
        starts = [(inputs[number], offset) for number, offset in how.reads(unit)]
        wanted = ([(info.name, offset) for info, offset in starts], nbytes)
        if wanted == self._loaded:
            return
        self._loaded = None
        self._source.read(
            [
                Read(info, offset, self.memory[number * nbytes : (number + 1) * nbytes])
                for number, (info, offset) in enumerate(starts)
            ]
        )
        self._loaded = wanted


@dataclass(frozen=True, slots=True)
class _Run:
    """Adjacent parts of a piece, of which either all are copies or none is."""

    is_copy: bool
    count: int
    nbytes: int


def _runs(parts: Iterable[ShardPart]) -> Iterator[_Run]:
    """Yield the runs of parts, in order."""
    for is_copy, group in itertools.groupby(parts, _is_copy):
        count = nbytes = 0
        for part in group:
            count += 1
            nbytes += part.nbytes
        yield _Run(is_copy, count, nbytes)


def _is_copy(part: ShardPart) -> bool:
    return isinstance(part, StepBytes) and part.how.is_copy


def _read_for(part: ShardPart) -> Iterator[ByteRange]:
    """Yield the bytes that are read for a part of a piece."""
    if isinstance(part, StepBytes) and part.how.is_copy:
        for info, begin, end in _ranges_of(part):
            yield ByteRange(info, begin, end)
    elif isinstance(part, StepBytes):
        for number, offset in part.how.reads(part.unit):
            yield ByteRange(part.inputs[number], offset, offset + part.how.input_bytes)


def _copied_ranges(parts: Iterable[ShardPart]) -> Iterator[tuple[TensorInfo, int, int]]:
    """Yield the byte ranges that copies consist of, in order: tensor, begin, end."""
    for part in parts:
        if isinstance(part, StepBytes):
            yield from _ranges_of(part)


def _ranges_of(part: StepBytes) -> Iterator[tuple[TensorInfo, int, int]]:
    """Yield the byte ranges that one copy consists of, in order: tensor, begin, end."""
    step = part.step
    how, inputs = step.sections[part.section], step.inputs_of(part.section)
    reads = how.reads(part.unit)
    position = part.begin
    while position < part.end:
        read, within = divmod(position, how.input_bytes)
        number, offset = reads[read]
        nbytes = min(how.input_bytes - within, part.end - position)
        yield inputs[number], offset + within, offset + within + nbytes
        position += nbytes

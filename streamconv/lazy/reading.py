"""Reads slices of output tensors from a source.

Bytes that a local file stores as requested are a view of a memory map. All others are read once,
straight into the memory of the result, or through a buffer if they have to be rearranged.
"""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import UsageError, quoted
from streamconv.execution.transpose import Transposer
from streamconv.lazy.arrays import Arrays, nbytes_of
from streamconv.planning.slices import SlicePart, slice_parts
from streamconv.planning.steps import Step
from streamconv.sources.base import MappedSource, Read
from streamconv.system.buffers import BufferPool, new_buffer

POOLED_BYTES = 2**20
"""Arrays of fewer bytes have memory of their framework."""
POOL_BYTES = 2**30
"""Memory of arrays that were dropped, which is kept for the next ones until the end."""
MAPPED_BYTES = 2**16
"""Fewer bytes are read; as many are copied from the page cache through a map."""
_UINT = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True, slots=True)
class _Range:
    """Adjacent bytes of a tensor."""

    info: TensorInfo
    begin: int
    end: int


class SliceReader:
    """Makes arrays of slices. Several threads may read at the same time."""

    def __init__(
        self, open_source: Callable[[], MappedSource], source: MappedSource, arrays: Arrays
    ) -> None:
        """Take over an open source.

        Args:
            open_source: Opens it again in a process that was forked.
            source: The source.
            arrays: Makes the arrays.
        """
        self._reopen = open_source
        self._source: MappedSource | None = source
        self._pid = os.getpid()
        self._arrays = arrays
        self._thread = threading.local()
        self._pool = BufferPool(POOL_BYTES)
        self._lock = threading.Lock()
        self._read = 0

    @property
    def bytes_read(self) -> int:
        """Bytes that were requested from the source, except headers. A view counts in full."""
        return self._read

    def check_unchanged(self) -> None:
        """Check that every file that was read is what it was, unless the source is closed.

        Raises:
            SourceChanged: A file was changed, replaced or removed.
            IOFailed: The file system or the server does not answer.
        """
        if self._source is not None:
            self._source.check_unchanged()

    def close(self) -> None:
        """Close the source. Arrays that were handed out stay as they are."""
        source, self._source = self._source, None
        self._pool.clear()
        if source is not None:
            source.close()

    def read(self, step: Step, box: Sequence[tuple[int, int]]) -> Any:
        """Return an array of a slice.

        Args:
            step: The step that makes the tensor.
            box: The range on each dimension.

        Raises:
            UsageError: The checkpoint is closed, or the framework has no such elements.
            SourceChanged: A file has changed since it was opened.
            BadCheckpoint: A file cannot be read, or is not what its header said.
            IOFailed: Reading failed.
        """
        source = self._open_source(step.name)
        shape = [end - begin for begin, end in box]
        parts = list(slice_parts(step, box))
        self._check(source, parts)
        view = self._view(source, parts, nbytes_of(step.dtype, shape))
        if view is not None:
            array = self._arrays.over(view, step.dtype, shape)
        else:
            array, memory = self._new(step.dtype, shape)
            self._fill(source, parts, memory)
        self._check(source, parts)
        return array

    def read_joined(self, step: Step, axis: int, boxes: Sequence[Sequence[tuple[int, int]]]) -> Any:
        """Return an array of slices, one after the other on dimension `axis`.

        Raises what `read` does.
        """
        if len(boxes) == 1:
            return self.read(step, boxes[0])
        source = self._open_source(step.name)
        shape = [end - begin for begin, end in boxes[0]]
        shape[axis] = sum(box[axis][1] - box[axis][0] for box in boxes)
        array, memory = self._new(step.dtype, shape)
        at = 0
        for box in boxes:
            place = [(extent, 0) for extent in shape]
            place[axis] = shape[axis], at
            at += box[axis][1] - box[axis][0]
            parts = list(slice_parts(step, box, place))
            self._check(source, parts)
            self._fill(source, parts, memory)
            self._check(source, parts)
        return array

    def fill(self, step: Step, box: Sequence[tuple[int, int]], memory: memoryview) -> None:
        """Read a slice into `memory`, which has as many bytes. Raises what `read` does."""
        source = self._open_source(step.name)
        parts = list(slice_parts(step, box))
        self._check(source, parts)
        self._fill(source, parts, memory)
        self._check(source, parts)

    def _new(self, dtype: str, shape: Sequence[int]) -> tuple[Any, memoryview]:
        """Return an uninitialized array, and its memory."""
        nbytes = nbytes_of(dtype, shape)
        if nbytes < POOLED_BYTES:
            return self._arrays.new(dtype, shape)
        lent = self._pool.take(nbytes)
        return self._arrays.over(lent, dtype, shape), memoryview(lent).cast("B")

    def _open_source(self, name: str) -> MappedSource:
        """Return the source; opened again if this process was forked since."""
        with self._lock:
            if self._source is None:
                raise UsageError(
                    f"cannot read {quoted(name)}: the checkpoint is closed", "open it again"
                )
            if self._pid != os.getpid():
                self._source, self._pid = self._reopen(), os.getpid()
                self._thread, self._pool = threading.local(), BufferPool(POOL_BYTES)
            return self._source

    def _count(self, nbytes: int) -> None:
        with self._lock:
            self._read += nbytes

    def _check(self, source: MappedSource, parts: Iterable[SlicePart]) -> None:
        """Raise SourceChanged if a file that was read has changed."""
        taken = (stored for part in parts for info in part.inputs for stored in info.stored)
        for name in {stored.file for stored in taken}:
            source.check_file(name)

    # --- views ---------------------------------------------------------------------------------

    def _view(
        self, source: MappedSource, parts: Sequence[SlicePart], nbytes: int
    ) -> memoryview | None:
        """Return the bytes of a slice as a view of a map, if they are stored as requested."""
        if not nbytes:
            return None
        found = _one_range(parts, nbytes)
        if found is None:
            return None
        view = source.mapped(found.info, found.begin, found.end)
        if view is not None:
            self._count(nbytes)
        return view

    # --- memory of its own ---------------------------------------------------------------------

    def _fill(self, source: MappedSource, parts: Sequence[SlicePart], memory: memoryview) -> None:
        """Make all parts of a slice in `memory`."""
        reads: list[Read] = []
        for part in parts:
            self._count(part.read_bytes)
            if part.is_copy:
                start = part.start * part.how.itemsize
                reads += _reads(part, memory[start : start + part.nbytes])
        _read(source, reads)
        for part in parts:
            if not part.is_copy:
                self._rearrange(source, part, memory)

    def _rearrange(self, source: MappedSource, part: SlicePart, memory: memoryview) -> None:
        """Read a part, and put its elements where they belong."""
        how = part.how
        buffer = self._buffer(part.read_bytes)
        _read(source, _reads(part, buffer))
        start = part.start * how.itemsize
        if part.is_contiguous:
            self._transpose(part, buffer, memory[start : start + part.nbytes])
            return
        dtype = np.dtype(_UINT[how.itemsize])
        steps = [
            tuple(stride * how.itemsize for stride in strides)
            for strides in (how.strides, part.strides)
        ]
        taken: Any = np.ndarray(how.shape, dtype, buffer, 0, steps[0])
        np.copyto(np.ndarray(how.shape, dtype, memory, start, steps[1]), taken)

    def _transpose(self, part: SlicePart, buffer: memoryview, room: memoryview) -> None:
        """Write a part from the buffer, panel by panel."""
        how = part.how
        made = self._thread.__dict__.setdefault("transposers", {})
        key = (how.shape, how.strides, how.itemsize, id(buffer.obj))
        if key not in made:
            if len(made) > 8:
                made.clear()
            made[key] = Transposer(how, buffer)
        for panel in made[key].panels:
            panel.write_into(room[: panel.nbytes])
            room = room[panel.nbytes :]

    def _buffer(self, nbytes: int) -> memoryview:
        """Return this thread's buffer, which is made larger if need be."""
        buffer: memoryview | None = self._thread.__dict__.get("buffer")
        if buffer is None or len(buffer) < nbytes:
            buffer = self._thread.buffer = new_buffer(nbytes)
            self._thread.transposers = {}
        return buffer[:nbytes]


def _read(source: MappedSource, reads: Iterable[Read]) -> None:
    """Fill the buffers of reads: from maps of files if there are any, else by reading."""
    left: list[Read] = []
    for read in reads:
        view = None
        if len(read.buffer) >= MAPPED_BYTES:
            view = source.mapped(read.info, read.start, read.start + len(read.buffer))
        if view is None:
            left.append(read)
        else:
            np.copyto(np.frombuffer(read.buffer, np.uint8), np.frombuffer(view, np.uint8))
    source.read(left)


def _reads(part: SlicePart, buffer: memoryview) -> list[Read]:
    """Return the reads of a part's inputs, one after the other in the buffer."""
    how = part.how
    return [
        Read(info, how.base, buffer[number * how.input_bytes : (number + 1) * how.input_bytes])
        for number, info in enumerate(part.inputs)
    ]


def _one_range(parts: Sequence[SlicePart], nbytes: int) -> _Range | None:
    """Return the range of one tensor that a slice is a copy of, or None."""
    first = parts[0]
    position = 0
    for part in parts:
        if not part.is_copy or part.how.inputs != 1 or part.inputs[0] is not first.inputs[0]:
            return None
        if part.how.base != first.how.base + position or part.start * part.how.itemsize != position:
            return None
        position += part.nbytes
    begin = first.how.base
    return _Range(first.inputs[0], begin, begin + nbytes) if position == nbytes else None

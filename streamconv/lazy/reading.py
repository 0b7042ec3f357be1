"""Reads slices of output tensors from a source.

If local files store the bytes in order, or maps of them can be joined, the array is a view of a
map. Otherwise bytes are read once: straight into the memory of the array, or through a buffer if
they have to be rearranged.
"""

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from streamconv.errors import UsageError, quoted
from streamconv.lazy.arrays import Arrays, nbytes_of
from streamconv.lazy.part_reader import PartReader, copied_ranges
from streamconv.planning.slices import SlicePart, slice_parts
from streamconv.planning.steps import Step
from streamconv.sources.base import MappedSource
from streamconv.system.buffers import BufferPool

_READERS: "weakref.WeakSet[SliceReader]" = weakref.WeakSet()
"""Those of this process. A forked one may have got their locks as another thread held them."""


def _unlock_all() -> None:
    for reader in _READERS:
        reader.unlock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_all)

POOLED_BYTES = 2**20
"""Smaller arrays get their memory from their framework."""
POOL_BYTES = 2**30
"""The most memory of dropped arrays that is kept for later ones, until the checkpoint is closed."""


class SliceReader:
    """Makes arrays of slices. Several threads may read at the same time."""

    def __init__(
        self, open_source: Callable[[], MappedSource], source: MappedSource, arrays: Arrays
    ) -> None:
        """Take over an open source.

        Args:
            open_source: Opens it again in a forked process.
            source: The source.
            arrays: Makes the arrays.
        """
        self._reopen = open_source
        self._source: MappedSource | None = source
        self._pid = os.getpid()
        self._arrays = arrays
        self._parts = PartReader()
        self._pool = BufferPool(POOL_BYTES)
        self._lock = threading.Lock()
        self._read = 0
        _READERS.add(self)

    def unlock(self) -> None:
        """Take new locks, in a process that was just forked."""
        self._lock = threading.Lock()
        self._parts = PartReader()

    @property
    def bytes_read(self) -> int:
        """Bytes that were requested from the source, except headers. A view counts in full."""
        return self._read

    def check_unchanged(self) -> None:
        """Check that every file that this process read is what it was, unless the source is closed.

        Raises:
            SourceChanged: A file was changed, replaced or removed.
            IOFailed: The file system or the server does not answer.
        """
        source = self._source
        if source is not None and self._is_own():
            source.check_unchanged()

    def close(self) -> None:
        """Close the source, after the reads of other threads. Arrays that were returned stay."""
        source, self._source = self._source, None
        self._pool.clear()
        self._parts.close()
        if source is not None and self._is_own():
            source.close()

    def _is_own(self) -> bool:
        """Return True if this process opened the source, and not the one that it was forked from.

        Threads of that one may have held the locks of its source.
        """
        return self._pid == os.getpid()

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
        shape = [end - begin for begin, end in box]
        return self._array(step, shape, list(slice_parts(step, box)))

    def read_joined(self, step: Step, axis: int, boxes: Sequence[Sequence[tuple[int, int]]]) -> Any:
        """Return an array of slices, one after the other on dimension `axis`.

        Raises what `read` does.
        """
        if len(boxes) == 1:
            return self.read(step, boxes[0])
        shape = [end - begin for begin, end in boxes[0]]
        shape[axis] = sum(box[axis][1] - box[axis][0] for box in boxes)
        parts: list[SlicePart] = []
        at = 0
        for box in boxes:
            place = [(extent, 0) for extent in shape]
            place[axis] = shape[axis], at
            at += box[axis][1] - box[axis][0]
            parts += slice_parts(step, box, place)
        return self._array(step, shape, parts)

    def fill(self, step: Step, box: Sequence[tuple[int, int]], memory: memoryview) -> None:
        """Read a slice into `memory`, which has as many bytes. Raises what `read` does."""
        source = self._open_source(step.name)
        parts = list(slice_parts(step, box))
        self._check(source, parts)
        self._count(sum(part.read_bytes for part in parts))
        self._parts.fill(source, parts, memory)
        self._check(source, parts)

    def _array(self, step: Step, shape: Sequence[int], parts: Sequence[SlicePart]) -> Any:
        """Return the array that parts make: a view of a map if possible, else in new memory."""
        source = self._open_source(step.name)
        nbytes = nbytes_of(step.dtype, shape)
        self._check(source, parts)
        ranges = copied_ranges(parts, nbytes)
        view = source.mapped(ranges) if ranges else None
        self._count(sum(part.read_bytes for part in parts))
        if view is not None:
            array = self._arrays.over(view, step.dtype, shape)
        else:
            array, memory = self._new(step.dtype, shape, nbytes)
            self._parts.fill(source, parts, memory)
        self._check(source, parts)
        return array

    def _new(self, dtype: str, shape: Sequence[int], nbytes: int) -> tuple[Any, memoryview]:
        """Return an uninitialized array, and its memory."""
        if nbytes < POOLED_BYTES:
            return self._arrays.new(dtype, shape)
        lent = self._pool.take(nbytes)
        return self._arrays.over(lent, dtype, shape), memoryview(lent).cast("B")

    def _open_source(self, name: str) -> MappedSource:
        """Return the source. It is opened again if this process was forked after it was opened."""
        with self._lock:
            if self._source is None:
                raise UsageError(
                    f"cannot read {quoted(name)}: the checkpoint is closed", "open it again"
                )
            if not self._is_own():
                self._source, self._pid = self._reopen(), os.getpid()
                self._pool = BufferPool(POOL_BYTES)
            return self._source

    def _count(self, nbytes: int) -> None:
        with self._lock:
            self._read += nbytes

    def _check(self, source: MappedSource, parts: Iterable[SlicePart]) -> None:
        """Raise SourceChanged if a file that was read has changed."""
        taken = (stored for part in parts for info in part.inputs for stored in info.stored)
        for name in {stored.file for stored in taken}:
            source.check_file(name)

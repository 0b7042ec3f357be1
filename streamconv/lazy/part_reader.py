"""Makes the parts of a slice in memory: reads their inputs, and rearranges them if necessary.

Large slices are made by several threads, each of which makes adjacent parts of it.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from streamconv.execution.transpose import PanelMemory, Transposer
from streamconv.planning.slices import SlicePart
from streamconv.sources.base import ByteRange, MappedSource, Read
from streamconv.system.buffers import new_buffer
from streamconv.system.cores import default_workers

MAPPED_BYTES = 2**16
"""Inputs of at least so many bytes are copied from a map of their file. Others are read."""
SHARE_BYTES = 8 * 2**20
"""The fewest bytes that a thread makes, because it takes time to wake one."""
_UINT = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class PartReader:
    """Makes parts of slices. Several threads may use it; a forked process needs one of its own."""

    def __init__(self) -> None:
        self._threads = 0
        self._kept = threading.local()
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._filling = 0
        self._helpers: ThreadPoolExecutor | None = None

    def fill(self, source: MappedSource, parts: Sequence[SlicePart], memory: memoryview) -> None:
        """Make all parts of a slice in its memory. Raises what `Source.read` does."""
        with self._lock:
            self._filling += 1
        try:
            self._fill(source, parts, memory)
        finally:
            with self._idle:
                self._filling -= 1
                self._idle.notify_all()

    def _fill(self, source: MappedSource, parts: Sequence[SlicePart], memory: memoryview) -> None:
        if not self._threads:  # not before, as forking makes a reader for each open checkpoint
            self._threads = default_workers()
        # a remote source has threads of its own
        shares = list(_shares(parts, 1 if source.checkpoint.remote else self._threads))
        if len(shares) < 2:
            self._make(source, parts, memory)
            return
        # under the lock: the pool must not be closed before it has all shares
        with self._lock:
            submit = self._pool().submit
            made = [submit(self._make, source, share, memory) for share in shares[1:]]
        try:
            self._make(source, shares[0], memory)
        finally:
            wait(made)
        for each in made:
            each.result()

    def close(self) -> None:
        """End the threads, after the reads of other threads have ended."""
        with self._idle:
            self._idle.wait_for(lambda: self._filling == 0)
            helpers, self._helpers = self._helpers, None
        if helpers is not None:
            helpers.shutdown()

    def _pool(self) -> ThreadPoolExecutor:
        if self._helpers is None:
            self._helpers = ThreadPoolExecutor(self._threads - 1, "streamconv-read")
        return self._helpers

    def _make(self, source: MappedSource, parts: Sequence[SlicePart], memory: memoryview) -> None:
        reads: list[Read] = []
        for part in parts:
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
        made = self._kept.__dict__.setdefault("transposers", {})
        key = (how.shape, how.strides, how.itemsize, id(buffer.obj))
        if key not in made:
            if len(made) > 8:
                made.clear()
            panels = self._kept.__dict__.setdefault("panels", PanelMemory())
            made[key] = Transposer(how, buffer, panels)
        for panel in made[key].panels:
            panel.write_into(room[: panel.nbytes])
            room = room[panel.nbytes :]

    def _buffer(self, nbytes: int) -> memoryview:
        """Return memory of this thread; a larger buffer takes its place if it is too small."""
        buffer: memoryview | None = self._kept.__dict__.get("buffer")
        if buffer is None or len(buffer) < nbytes:
            buffer = self._kept.buffer = new_buffer(nbytes)
            self._kept.transposers = {}
        return buffer[:nbytes]


def copied_ranges(parts: Sequence[SlicePart], nbytes: int) -> list[ByteRange] | None:
    """Return the ranges of inputs that make a slice of `nbytes` if they are concatenated.

    Returns None if elements of it have to be rearranged.
    """
    ranges: list[ByteRange] = []
    position = 0
    for part in sorted(parts, key=lambda each: each.start * each.how.itemsize):
        how = part.how
        if not part.is_copy or part.start * how.itemsize != position:
            return None
        ranges += (ByteRange(info, how.base, how.base + how.input_bytes) for info in part.inputs)
        position += part.nbytes
    return ranges if position == nbytes else None


def _shares(parts: Sequence[SlicePart], most: int) -> Iterator[Sequence[SlicePart]]:
    """Cut the parts into at most `most` shares of about as many bytes each."""
    total = sum(part.nbytes for part in parts)
    share = max(-(-total // most), SHARE_BYTES)
    begin = nbytes = 0
    for end, part in enumerate(parts, 1):
        nbytes += part.nbytes
        if nbytes >= share or end == len(parts):
            yield parts[begin:end]
            begin, nbytes = end, 0


def _read(source: MappedSource, reads: Iterable[Read]) -> None:
    """Fill the buffers of reads: from maps of files if there are any, else by reading."""
    left: list[Read] = []
    for read in reads:
        view = None
        if len(read.buffer) >= MAPPED_BYTES:
            view = source.mapped([ByteRange(read.info, read.start, read.start + len(read.buffer))])
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

"""The comparison of two regions, bit for bit.

How bytes are rearranged is deliberately written twice: here, to compare them, and in
`execution/transpose.py`, to move them. Neither uses the other, so a mistake in one of them shows as
a difference instead of being repeated.

The output is read block by block. So is the source if both regions have their axes in the same
order, in larger blocks. If not, the source's region is in memory, one expert of one weight. A
comparison across a transpose would stride through memory by whole rows: panels that fit into the
cache are gathered from the source in long runs first. Elements are compared as integers of their
width.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamconv.sources.base import Read, Source
from streamconv.system.buffers import new_buffer
from streamconv.verification.regions import Region

SOURCE_BLOCK_BYTES = 4 * 2**20
"""Size of the blocks of the source; a multiple of every element. Large, as it may be on another
machine, or be decoded."""
OUTPUT_BLOCK_BYTES = 2**20
"""The same of the output, which is read from a disk. If it is not, it has the source's."""
PANEL_WIDTH = 128
"""Neighboring elements that a panel takes from each row of the source."""
PANEL_BYTES = 2**19
"""A panel of long columns is narrower, to stay about this size."""
SHORT_AXIS = 8
"""An innermost axis shorter than this is compared one position at a time."""

Array = npt.NDArray[Any]
Block = tuple[int, Array, Array]
"""Position of a block in elements of the output's region, the source's elements, the output's."""

_UINT = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True, slots=True)
class Unequal:
    """How two regions differ, counted in elements, or in bytes if elements are smaller."""

    differing: int
    of: int
    first: int
    """Position of the first one that differs, in the output's region."""
    positions: tuple[int, ...]
    """Where elements differ on the axis given as `split`."""


class Comparer:
    """Compares regions one after the other in the same memory. Each thread has its own."""

    def __init__(self, source: Source, output: Source) -> None:
        self._source = source
        self._output = output
        self._held = _Room()
        self._block = _Room()
        is_remote = bool(output.checkpoint.remote)
        self._block_bytes = SOURCE_BLOCK_BYTES if is_remote else OUTPUT_BLOCK_BYTES

    def compare(self, source: Region, output: Region, split: str = "") -> Unequal | None:
        """Compare `output` with `source`.

        Args:
            source: A region of the source.
            output: A region of the output, with the same axes, sizes and bits.
            split: The axis whose positions are reported separately, such as gate and up.

        Returns:
            How they differ; None if they do not.

        Raises:
            IOFailed: Reading failed.
            BadCheckpoint: A file changed meanwhile.
        """
        differing, first, positions = 0, -1, set[int]()
        same_order = source.axes == output.axes
        blocks = self._in_order(source, output) if same_order else self._across(source, output)
        for begin, expected, found in blocks:
            if _is_equal(expected, found):
                continue
            unequal = begin + np.flatnonzero(expected != found)
            differing += len(unequal)
            first = int(unequal[0]) if first < 0 else first
            positions.update(_positions(unequal, output, split))
        if not differing:
            return None
        return Unequal(differing, _elements(output), first, tuple(sorted(positions)))

    def _in_order(self, source: Region, output: Region) -> Iterator[Block]:
        """Read both regions block by block, as they are stored."""
        width = _width(output)
        for first, last in _spans(0, output.nbytes, SOURCE_BLOCK_BYTES):
            held = self._read(self._source, source, first, last, self._held)
            for begin, end in _spans(first, last, self._block_bytes):
                found = self._read(self._output, output, begin, end, self._block)
                expected = held[begin - first : end - first]
                yield begin // width, _array(expected, width), _array(found, width)

    def _across(self, source: Region, output: Region) -> Iterator[Block]:
        """Read the output block by block, and all of the source, seen in the output's order."""
        width = _width(output)
        held = _array(self._read(self._source, source, 0, source.nbytes, self._held), width)
        order = [source.axes.index(axis) for axis in output.axes]
        whole = held.reshape(source.shape).transpose(order)
        begin = 0
        for cut in _cuts(output.shape, self._block_bytes // width):
            expected = whole[cut]
            end = begin + expected.size
            found = self._read(self._output, output, begin * width, end * width, self._block)
            yield begin, expected, _array(found, width).reshape(expected.shape)
            begin = end

    def _read(
        self, source: Source, region: Region, begin: int, end: int, room: "_Room"
    ) -> memoryview:
        """Read the bytes `begin` to `end` of a region into memory."""
        buffer = room.of(end - begin)
        filled = 0
        reads = []
        for run in region.cut(begin, end):
            reads.append(Read(run.info, run.start, buffer[filled : filled + run.nbytes]))
            filled += run.nbytes
        source.read(reads)
        return buffer[:filled]


class _Room:
    """Memory as large as the largest block that it has held."""

    def __init__(self) -> None:
        self._memory = new_buffer(0)

    def of(self, nbytes: int) -> memoryview:
        """Return `nbytes` of it, with any content; what was read before is lost."""
        if len(self._memory) < nbytes:
            self._memory = new_buffer(nbytes)
        return self._memory[:nbytes]


def _width(region: Region) -> int:
    """Return the bytes of what is compared: an element, or a byte of smaller ones."""
    return max(region.bits // 8, 1)


def _elements(region: Region) -> int:
    return region.nbytes // _width(region)


def _array(data: memoryview, width: int) -> Array:
    return np.ndarray(len(data) // width, _UINT[width], data)


def _spans(begin: int, end: int, step: int) -> Iterator[tuple[int, int]]:
    """Cut bytes into spans of `step`, in order; yields where each begins and ends."""
    return ((start, min(start + step, end)) for start in range(begin, end, step))


def _cuts(shape: tuple[int, ...], most: int) -> Iterator[tuple[int | slice, ...]]:
    """Cut an array into contiguous blocks of at most so many elements, in order."""
    depth = 0
    while math.prod(shape[depth + 1 :]) > most:
        depth += 1
    rows = most // math.prod(shape[depth + 1 :])
    for leading in itertools.product(*map(range, shape[:depth])):
        for start in range(0, shape[depth], rows):
            yield (*leading, slice(start, start + rows))


def _is_equal(one: Array, other: Array) -> bool:
    """Return True if all elements are equal. `one` may be a transposed view."""
    if one.flags.c_contiguous and other.flags.c_contiguous:
        whole = one.nbytes // 8 * 8
        ones, others = one.reshape(-1).view(np.uint8), other.reshape(-1).view(np.uint8)
        return np.array_equal(
            ones[:whole].view(np.uint64), others[:whole].view(np.uint64)
        ) and np.array_equal(ones[whole:], others[whole:])
    if other.ndim > 1 and other.shape[-1] < SHORT_AXIS:
        return all(_is_equal(one[..., k], other[..., k]) for k in range(other.shape[-1]))
    outermost_first = sorted(range(one.ndim), key=lambda axis: -one.strides[axis])
    near = outermost_first[-1]
    width = max(min(PANEL_WIDTH, PANEL_BYTES * one.shape[near] // one.nbytes), 1)
    back = sorted(range(one.ndim), key=outermost_first.__getitem__)
    for start in range(0, one.shape[near], width):
        panel = (slice(None),) * near + (slice(start, start + width),)
        gathered = np.ascontiguousarray(one[panel].transpose(outermost_first)).transpose(back)
        if not np.array_equal(gathered, other[panel]):
            return False
    return True


def _positions(elements: Array, region: Region, axis: str) -> set[int]:
    """Return the positions on `axis` of elements, given by their numbers in the region."""
    if axis not in region.axes:
        return set()
    at = region.axes.index(axis)
    below = _elements(region) // math.prod(region.shape[: at + 1])
    return set(np.unique(elements // below % region.shape[at]).tolist())

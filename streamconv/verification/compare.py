"""Whether two regions hold the same bits, read from two sources in blocks.

The output is read block by block. Where both regions have their axes in one order, so is the
source; where not, the source's region is held, one expert of one weight. Comparing across a
transpose would stride through memory by whole rows, so panels that fit the cache are gathered
from the source in long runs first. Elements are compared as integers of their width.

How bytes move is deliberately written twice: here for comparing them, and in
`execution/transpose.py` for converting them. The two share no code, so that a mistake in one is
found by the other.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamconv.sources.base import Read, Source
from streamconv.system.file_ops import new_buffer
from streamconv.verification.regions import Region

BLOCK_BYTES = 4 * 2**20
"""What is read of the output at once; a multiple of every element."""
PANEL_WIDTH = 128
"""Neighbouring elements that a panel takes from each row of the source."""
PANEL_BYTES = 2**19
"""A panel of long columns is narrower, to stay about this size."""
SHORT_AXIS = 8
"""An innermost axis shorter than this is compared one position at a time."""

Array = npt.NDArray[Any]
Block = tuple[int, Array, Array]
"""Where a block begins, in elements of the output's region; the source's elements; the output's."""

_UINT = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True, slots=True)
class Unequal:
    """Where two regions differ. Counts elements, or bytes where an element is less than one."""

    differing: int
    of: int
    first: int
    """The first that differs, from the start of the output's region."""
    positions: tuple[int, ...]
    """The positions on the axis that was asked for at which something differs."""


class Comparer:
    """Compares regions one after the other; keeps the memory for it. One for each thread."""

    def __init__(self, source: Source, output: Source) -> None:
        self._source = source
        self._output = output
        self._held = new_buffer(BLOCK_BYTES)
        self._block = new_buffer(BLOCK_BYTES)

    def compare(self, source: Region, output: Region, split: str = "") -> Unequal | None:
        """Where `output` differs from `source`, or None.

        Both have the same axes, sizes and bits. `split` is the axis whose positions are told
        apart. Raises what the sources raise.
        """
        differing, first, positions = 0, -1, set[int]()
        straight = source.axes == output.axes
        for begin, one, other in (self._straight if straight else self._across)(source, output):
            if _same(one, other):
                continue
            places = begin + np.flatnonzero(one != other)
            differing += len(places)
            first = int(places[0]) if first < 0 else first
            positions.update(_positions(places, output, split))
        if not differing:
            return None
        return Unequal(differing, _elements(output), first, tuple(sorted(positions)))

    def _straight(self, source: Region, output: Region) -> Iterator[Block]:
        """Both regions block by block, as they lie."""
        width = _width(output)
        for begin in range(0, _elements(output), BLOCK_BYTES // width):
            end = min(begin + BLOCK_BYTES // width, _elements(output))
            one = self._read(self._source, source, begin * width, end * width, self._held)
            other = self._read(self._output, output, begin * width, end * width, self._block)
            yield begin, _array(one, width), _array(other, width)

    def _across(self, source: Region, output: Region) -> Iterator[Block]:
        """The output block by block, beside the source's elements in the output's order."""
        width = _width(output)
        if len(self._held) < source.nbytes:
            self._held = new_buffer(source.nbytes)
        held = _array(self._read(self._source, source, 0, source.nbytes, self._held), width)
        order = [source.axes.index(axis) for axis in output.axes]
        whole = held.reshape(source.shape).transpose(order)
        begin = 0
        for cut in _cuts(output.shape, width):
            one = whole[cut]
            end = begin + one.size
            other = self._read(self._output, output, begin * width, end * width, self._block)
            yield begin, one, _array(other, width).reshape(one.shape)
            begin = end

    def _read(
        self, source: Source, region: Region, begin: int, end: int, buffer: memoryview
    ) -> memoryview:
        """The bytes `begin` to `end` of a region."""
        filled = 0
        reads = []
        for run in region.cut(begin, end):
            reads.append(Read(run.info, run.start, buffer[filled : filled + run.nbytes]))
            filled += run.nbytes
        source.read(reads)
        return buffer[:filled]


def _width(region: Region) -> int:
    """Bytes of what is compared at once: an element, or a byte of smaller ones."""
    return max(region.bits // 8, 1)


def _elements(region: Region) -> int:
    return region.nbytes // _width(region)


def _array(data: memoryview, width: int) -> Array:
    return np.ndarray(len(data) // width, _UINT[width], data)


def _cuts(shape: tuple[int, ...], width: int) -> Iterator[tuple[int | slice, ...]]:
    """An array cut into contiguous blocks of at most BLOCK_BYTES, in order."""
    depth = 0
    while math.prod(shape[depth + 1 :]) * width > BLOCK_BYTES:
        depth += 1
    rows = BLOCK_BYTES // (math.prod(shape[depth + 1 :]) * width)
    for leading in itertools.product(*map(range, shape[:depth])):
        for start in range(0, shape[depth], rows):
            yield (*leading, slice(start, start + rows))


def _same(one: Array, other: Array) -> bool:
    """Whether all elements are equal."""
    if one.flags.c_contiguous and other.flags.c_contiguous:
        whole = one.nbytes // 8 * 8
        ones, others = one.reshape(-1).view(np.uint8), other.reshape(-1).view(np.uint8)
        return np.array_equal(
            ones[:whole].view(np.uint64), others[:whole].view(np.uint64)
        ) and np.array_equal(ones[whole:], others[whole:])
    if other.ndim > 1 and other.shape[-1] < SHORT_AXIS:
        return all(_same(one[..., k], other[..., k]) for k in range(other.shape[-1]))
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


def _positions(places: Array, region: Region, axis: str) -> set[int]:
    """The positions on `axis` of what is given by its number in the region."""
    if axis not in region.axes:
        return set()
    at = region.axes.index(axis)
    below = _elements(region) // math.prod(region.shape[: at + 1])
    return set(np.unique(places // below % region.shape[at]).tolist())

"""Cut a slice of a section into boxes, each of which is a range on every axis.

The axes are made so that the dimensions of the tensor, the axes of a unit's array and the inputs
all end where an axis ends.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from streamconv.planning.rearrangement import Rearrangement

Span = tuple[int, int]
"""First index and the one after the last."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """A dimension of a section, and of the result."""

    size: int
    span: Span
    """The range that is taken of it."""
    extent: int
    """Its size in the result."""
    at: int
    """Where the range begins in the result."""


@dataclass(frozen=True, slots=True)
class AxisRange:
    """A range on an axis that no dimension, array axis or input ends inside of."""

    extent: int
    stride: int
    """In elements of a unit's memory; of an axis of units, in units."""
    of_units: bool
    target_stride: int = 0
    """In elements of the result."""
    span: Span = (0, 0)

    @property
    def count(self) -> int:
        return self.span[1] - self.span[0]


def common_axes(how: Rearrangement, shape: Sequence[int]) -> list[AxisRange]:
    """Cut a section into axes that end wherever a dimension, an array axis or an input ends."""
    input_items = how.input_bytes // how.itemsize
    array = list(zip(how.shape, how.strides, strict=True))
    cuts = {1}
    width = 1
    for extent, stride in reversed(array):
        if stride < input_items < extent * stride:
            cuts.add(width * (input_items // stride))
        width *= extent
        cuts.add(width)
    unit = width
    cuts.add(unit * how.units)
    width = 1
    for extent in reversed(shape):
        width *= extent
        cuts.add(width)
    axes: list[AxisRange] = []
    for outer, inner in itertools.pairwise(sorted(cuts, reverse=True)):
        if inner >= unit:
            axes.append(AxisRange(outer // inner, inner // unit, of_units=True))
        else:
            axes.append(AxisRange(outer // inner, _stride_at(array, inner), of_units=False))
    return axes


def _stride_at(array: Sequence[Span], position: int) -> int:
    """Return the distance in memory of items that are `position` apart in the output."""
    width = 1
    for extent, stride in reversed(array):
        if position < width * extent:
            return stride * (position // width)
        width *= extent
    raise AssertionError("the position is outside of the unit")


def axis_ranges(
    axes: Sequence[AxisRange], dims: Sequence[Dimension]
) -> Iterator[list[list[AxisRange]]]:
    """Yield for each dimension, outermost first, the ranges on its axes that make up its span."""
    left = list(axes)
    after = math.prod(dim.extent for dim in dims)
    for dim in dims:
        after //= dim.extent
        own: list[AxisRange] = []
        while math.prod(axis.extent for axis in own) < dim.size:
            own.append(left.pop(0))
        inner = dim.size
        placed = []
        for axis in own:
            inner //= axis.extent
            placed.append(AxisRange(axis.extent, axis.stride, axis.of_units, inner * after))
        yield list(_cover(placed, *dim.span))


def _cover(axes: Sequence[AxisRange], begin: int, end: int) -> Iterator[list[AxisRange]]:
    """Yield boxes over axes that together are the positions `begin` to `end` on all of them."""
    if not axes:
        yield []
        return
    axis, rest = axes[0], axes[1:]
    inner = math.prod(each.extent for each in rest)
    (first, skipped), (last, more) = divmod(begin, inner), divmod(end, inner)
    if first == last:
        yield from (_then(axis, first, first + 1, box) for box in _cover(rest, skipped, more))
        return
    if skipped:
        yield from (_then(axis, first, first + 1, box) for box in _cover(rest, skipped, inner))
        first += 1
    if first < last:
        yield from (_then(axis, first, last, box) for box in _cover(rest, 0, inner))
    if more:
        yield from (_then(axis, last, last + 1, box) for box in _cover(rest, 0, more))


def _then(axis: AxisRange, begin: int, end: int, rest: list[AxisRange]) -> list[AxisRange]:
    span = (begin, end)
    return [AxisRange(axis.extent, axis.stride, axis.of_units, axis.target_stride, span), *rest]

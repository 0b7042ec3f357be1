"""Find the bytes that make a slice of an output tensor.

A slice is a box: a range on each dimension. Its bytes follow from the rearrangements of the step,
in the same terms: each part of a slice is a rearrangement of a single unit, and has its place in
the result.

An example: rows 2 to 4 of `e h (p i)`, shape [8, 4, 6], of tensors `experts.{e}.{p} : i h`. Each
expert is a unit, which reads two inputs of 3 * 4 elements as one array of shape (4, 6) and strides
(1, 4). The dimensions of the tensor and the axes of that array are cut where either of them ends,
and where an input ends, so that the box is a range on each of these axes:

    axis          e     h     p     i
    extent        8     4     2     3
    stride              1    12     4       in elements of the unit's memory
    range         8   2-3   0-1   0-2

So a unit needs elements 2 to 11 of each input. They are read, and rearranged with the strides 1, 10
and 4 to the result's 6, 3 and 1.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import UsageError, quoted
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.planning.rearrangement import Rearrangement
from streamconv.planning.slice_axes import AxisRange, Dimension, Span, axis_ranges, common_axes
from streamconv.planning.steps import Step


@dataclass(frozen=True, slots=True)
class SlicePart:
    """A part of a slice that is made at once."""

    how: Rearrangement
    """How its elements come from what is read; it has a single unit."""
    inputs: tuple[TensorInfo, ...]
    start: int
    """Its first element in the result."""
    strides: tuple[int, ...]
    """Distance in the result, in elements, of neighbors on each axis of `how.shape`."""

    @property
    def nbytes(self) -> int:
        """Bytes that it has in the result."""
        return self.how.unit_bytes

    @property
    def read_bytes(self) -> int:
        """Bytes that it reads."""
        return self.how.inputs * self.how.input_bytes

    @property
    def is_contiguous(self) -> bool:
        """True if its bytes follow one another in the result."""
        width = 1
        for extent, stride in zip(reversed(self.how.shape), reversed(self.strides), strict=True):
            if stride != width:
                return False
            width *= extent
        return True

    @property
    def is_copy(self) -> bool:
        """True if its bytes follow one another in the inputs and in the result alike."""
        return self.how.is_copy and self.is_contiguous


def slice_parts(
    step: Step, box: Sequence[Span], place: Sequence[tuple[int, int]] | None = None
) -> Iterator[SlicePart]:
    """Yield the parts of a slice of an output tensor.

    If the slice takes the innermost dimension of an input whole, only needed bytes are read.
    Otherwise, everything between the first and the last needed element of a matrix is read.

    Args:
        step: The step that makes the tensor.
        box: The range on each of its dimensions, inside of it.
        place: For each dimension of the result, its extent and where the slice begins on it; by
            default the result is the slice.

    Raises:
        UsageError: Elements of less than a byte would be cut apart.
    """
    if any(begin >= end for begin, end in box):
        return
    if place is None:
        place = [(end - begin, 0) for begin, end in box]
    row_bytes = step.nbytes // step.shape[0] if step.shape else step.nbytes
    begin, end = box[0] if box else (0, 1)
    first = 0
    for number, how in enumerate(step.sections):
        rows = how.units * how.unit_bytes // row_bytes
        span = max(begin, first) - first, min(end, first + rows) - first
        if span[0] < span[1]:
            dims: list[Dimension] = []
            if step.shape:
                extent, at = place[0]
                dims.append(Dimension(rows, span, extent, at + first + span[0] - begin))
                for size, inner, (extent, at) in zip(
                    step.shape[1:], box[1:], place[1:], strict=True
                ):
                    dims.append(Dimension(size, inner, extent, at))
            dims = _in_items(step, dims, how.itemsize)
            yield from _section_parts(how, step.inputs_of(number), dims)
        first += rows


def _in_items(step: Step, dims: list[Dimension], itemsize: int) -> list[Dimension]:
    """Return dimensions in the items of a rearrangement: elements, or bytes if it copies bytes."""
    bits = DTYPE_BITS[step.dtype]
    if bits == itemsize * 8:
        return dims
    if bits % 8 == 0:
        width = bits // 8 // itemsize
        return [*dims, Dimension(width, (0, width), width, 0)]
    if all(dim.span == (0, dim.size) and dim.extent == dim.size for dim in dims):
        nbytes = math.prod(dim.size for dim in dims) * bits // 8
        return [Dimension(nbytes, (0, nbytes), nbytes, 0)]
    last = dims[-1]
    in_bits = [bits * count for count in (last.size, *last.span, last.extent, last.at)]
    if any(count % 8 for count in in_bits):
        raise UsageError(
            f"cannot cut {quoted(step.name)} there: its elements of {bits} bits are not whole bytes"
        )
    size, begin, end, extent, at = (count // 8 for count in in_bits)
    return [*dims[:-1], Dimension(size, (begin, end), extent, at)]


def _section_parts(
    how: Rearrangement, inputs: Sequence[TensorInfo], dims: Sequence[Dimension]
) -> Iterator[SlicePart]:
    """Yield the parts of a slice of one section."""
    axes = common_axes(how, [dim.size for dim in dims])
    origin, width = 0, 1
    for dim in reversed(dims):
        origin += (dim.at - dim.span[0]) * width
        width *= dim.extent
    for ranges in itertools.product(*axis_ranges(axes, dims)):
        chosen = list(itertools.chain.from_iterable(ranges))
        target = origin + sum(axis.target_stride * axis.span[0] for axis in chosen)
        units = [axis for axis in chosen if axis.of_units]
        others = [axis for axis in chosen if not axis.of_units]
        for position in itertools.product(*(range(*axis.span) for axis in units)):
            unit = sum(k * axis.stride for k, axis in zip(position, units, strict=True))
            moved = sum(
                (k - axis.span[0]) * axis.target_stride
                for k, axis in zip(position, units, strict=True)
            )
            yield from _unit_parts(how, inputs, unit, others, target + moved)


def _unit_parts(
    how: Rearrangement,
    inputs: Sequence[TensorInfo],
    unit: int,
    axes: Sequence[AxisRange],
    target: int,
) -> Iterator[SlicePart]:
    """Yield the parts that one unit makes of a box, whose first item is `target` in the result."""
    input_items = how.input_bytes // how.itemsize
    across = [axis for axis in axes if axis.stride >= input_items]
    within = [axis for axis in axes if axis.stride < input_items]
    split = _split_axes(within)
    kept = [axis for axis in axes if axis not in split]
    start = how.start + sum(axis.stride * axis.span[0] for axis in within)
    numbers = [
        sum(k * axis.stride // input_items for k, axis in zip(position, across, strict=True))
        for position in itertools.product(*(range(*axis.span) for axis in across))
    ]
    first = unit * how.inputs if how.advance else 0
    taken = tuple(inputs[first + number] for number in numbers)
    width = 1 + sum((a.count - 1) * a.stride for a in within if a not in split)
    strides, step = {}, width
    for axis in reversed(across):
        strides[id(axis)] = step
        step *= axis.count
    shape, from_strides, to_strides = _join(
        (axis.count, strides.get(id(axis), axis.stride), axis.target_stride) for axis in kept
    )
    for position in itertools.product(*(range(axis.count) for axis in split)):
        moved = sum(k * axis.stride for k, axis in zip(position, split, strict=True))
        place = sum(k * axis.target_stride for k, axis in zip(position, split, strict=True))
        part = Rearrangement(
            units=1,
            inputs=len(taken),
            advance=False,
            base=how.base + unit * how.stride + (start + moved) * how.itemsize,
            stride=0,
            input_bytes=width * how.itemsize,
            start=0,
            shape=shape,
            strides=from_strides,
            itemsize=how.itemsize,
        )
        yield SlicePart(part, taken, target + place, to_strides)


def _split_axes(within: Sequence[AxisRange]) -> list[AxisRange]:
    """Return the axes of an input for each position of which a separate part is read.

    The other axes are read at once. They are dense, or they are columns of a matrix.
    """
    ordered = sorted(within, key=lambda axis: axis.stride)
    width, dense = 1, 0
    for axis in ordered:
        if axis.count > 1 and axis.stride != width:
            break
        width *= axis.count
        dense += 1
    if ordered and ordered[0].count < ordered[0].extent:
        wider = (number for number, axis in enumerate(ordered) if number and axis.count > 1)
        dense = max(dense, next(wider, 0) + 1)
    return [axis for axis in ordered[dense:] if axis.count > 1]


def _join(
    axes: Iterator[tuple[int, int, int]],
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Join neighboring axes if one continues the other in memory and in the result."""
    joined: list[tuple[int, int, int]] = []
    for extent, stride, target in axes:
        if extent == 1:
            continue
        if joined and joined[-1][1:] == (extent * stride, extent * target):
            joined[-1] = (joined[-1][0] * extent, stride, target)
        else:
            joined.append((extent, stride, target))
    return (
        tuple(extent for extent, _, _ in joined),
        tuple(stride for _, stride, _ in joined),
        tuple(target for _, _, target in joined),
    )

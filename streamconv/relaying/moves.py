"""Plans, as strided arrays, the part of an output tensor that comes from each of its inputs.

A plan says how an output is made from bytes that are read. Tensors in memory are not read: each
part of an output is a strided view of one input, which is copied to a strided view of the output.
If a single part is the whole output, its view can be the output.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from streamconv.planning.rearrangement import Rearrangement
from streamconv.planning.slice_axes import AxisRange, common_axes


@dataclass(frozen=True, slots=True)
class Move:
    """A part of an output that comes from one input. All numbers count elements."""

    extents: tuple[int, ...]
    offset: int
    """First element in the input."""
    strides: tuple[int, ...]
    """Distance of neighbors on each axis, in the input."""
    place: int
    """First element in the output."""
    target_strides: tuple[int, ...]
    """Distance of neighbors on each axis, in the output."""


@dataclass(frozen=True, slots=True)
class Moves:
    """How an output tensor is made from its inputs."""

    shape: tuple[int, ...]
    """Shape of the output, in elements of the framework."""
    by_input: Mapping[int, Sequence[Move]]
    """The parts that come from each input, by its number among the output's inputs."""
    is_whole: bool
    """True if the output has all bytes of its only input, in their order."""
    view: Move | None
    """The output as a view of its only input, with the shape of the output as `extents`; None if it
    is not such a view."""


def plan_moves(
    sections: Sequence[Rearrangement], shape: tuple[int, ...], input_bytes: int
) -> Moves:
    """Plan the parts of an output that come from each of its inputs.

    Args:
        sections: The rearrangements that make the output, in the order of its bytes.
        shape: Shape of the output, in elements of whole bytes.
        input_bytes: Bytes of the first input.
    """
    only = sections[0]
    if len(sections) == 1 and only.is_copy and only.units * only.unit_bytes == input_bytes:
        return Moves(shape, {}, is_whole=True, view=None)
    by_input: dict[int, list[Move]] = {
        number: [] for number in range(sum(how.total_inputs for how in sections))
    }
    place = first = 0
    for how in sections if math.prod(shape) else ():
        for number, move in _section_moves(how, shape, place):
            by_input[first + number].append(move)
        place += how.units * math.prod(how.shape)
        first += how.total_inputs
    moves = [move for several in by_input.values() for move in several]
    view = _merged(moves[0], shape) if len(moves) == 1 else None
    return Moves(shape, by_input, is_whole=False, view=view)


def _section_moves(
    how: Rearrangement, shape: tuple[int, ...], place: int
) -> Iterator[tuple[int, Move]]:
    """Yield the parts of a section, each with the number of its input among the section's."""
    items = how.units * math.prod(how.shape)
    rows = [items // math.prod(shape[1:]), *shape[1:]] if shape else []
    axes = common_axes(how, rows)
    input_items = how.input_bytes // how.itemsize
    width, targets = 1, [0] * len(axes)
    for number in reversed(range(len(axes))):
        targets[number] = width
        width *= axes[number].extent

    def chooses_input(axis: AxisRange) -> bool:
        return how.advance if axis.of_units else axis.stride >= input_items

    across = [n for n, axis in enumerate(axes) if chooses_input(axis)]
    within = [n for n in range(len(axes)) if n not in across]
    strides = tuple(
        axes[n].stride * (how.stride // how.itemsize if axes[n].of_units else 1) for n in within
    )
    for position in itertools.product(*(range(axes[n].extent) for n in across)):
        chosen = list(zip(across, position, strict=True))
        unit = sum(k * axes[n].stride for n, k in chosen if axes[n].of_units)
        other = sum(k * axes[n].stride // input_items for n, k in chosen if not axes[n].of_units)
        yield (
            unit * how.inputs + other,
            Move(
                tuple(axes[n].extent for n in within),
                (how.base + unit * how.stride) // how.itemsize + how.start,
                strides,
                place + sum(k * targets[n] for n, k in chosen),
                tuple(targets[n] for n in within),
            ),
        )


def _merged(move: Move, shape: tuple[int, ...]) -> Move | None:
    """Return a move with the dimensions of `shape`, or None if one needs several strides."""
    axes = list(zip(move.extents, move.strides, strict=True))
    strides = []
    for extent in shape:
        count, stride = 1, 1
        while count < extent:
            inner, inner_stride = axes.pop(0)
            if inner > 1 and count > 1 and stride != inner * inner_stride:
                return None
            count, stride = count * inner, inner_stride if inner > 1 else stride
        strides.append(stride)
    return Move(shape, move.offset, tuple(strides), 0, move.target_strides)

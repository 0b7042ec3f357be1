"""The bytes of one expert of one weight in the tensors of its layout.

A layout's template says which axes are in a tensor's name and which in its shape. The axis `e` of
experts decides what one expert is:

    in the name                    whole tensors
    the outermost axis             one run of each tensor
    another axis of the shape      a run for each position on the axes outside of it

For `h e i` with h = 2 and e = 3, expert 1 is the runs 1 and 4 of the six runs of i elements.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from streamconv.catalog.templates import EXPERT, Template
from streamconv.checkpoint.types import TensorInfo
from streamconv.formats.safetensors import DTYPE_BITS


@dataclass(frozen=True, slots=True)
class Run:
    """Bytes of a tensor, from `start`."""

    info: TensorInfo
    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Region:
    """Runs that are one array if they are concatenated."""

    runs: tuple[Run, ...]
    axes: tuple[str, ...]
    """Outermost first; none of size one."""
    shape: tuple[int, ...]
    """In elements."""
    bits: int
    """Width of an element."""

    @property
    def nbytes(self) -> int:
        return sum(run.nbytes for run in self.runs)

    def repeat(self, axis: str, count: int) -> "Region":
        """Return the region with another axis, outermost, along which it is the same."""
        return Region(self.runs * count, (axis, *self.axes), (count, *self.shape), self.bits)

    def cut(self, begin: int, end: int) -> Iterator[Run]:
        """Yield the runs that hold the bytes `begin` to `end` of the region."""
        position = 0
        for run in self.runs:
            first, last = max(begin, position), min(end, position + run.nbytes)
            if first < last:
                yield Run(run.info, run.start + first - position, last - first)
            position += run.nbytes


def whole(info: TensorInfo) -> Region:
    """Return all bytes of a tensor that a conversion copies."""
    return Region((Run(info, 0, info.nbytes),), (), (), DTYPE_BITS[info.dtype])


def expert_region(
    template: Template,
    infos: Sequence[TensorInfo],
    sizes: Mapping[str, int],
    expert: int,
    before: int = 0,
) -> Region | None:
    """Return the bytes of one expert of a weight.

    Args:
        template: The axes of the weight.
        infos: Its tensors, in the order of the axes in their names.
        sizes: Sizes of all axes.
        expert: Number of the expert.
        before: Elements of another weight at the beginning of each tensor.

    Returns:
        The region; None if it does not begin and end at whole bytes.
    """
    bits = DTYPE_BITS[infos[0].dtype]
    outside: tuple[str, ...] = ()
    inside = template.axes
    if EXPERT in inside:
        at = inside.index(EXPERT)
        outside, inside = inside[:at], inside[at + 1 :]
    width = math.prod(sizes[axis] for axis in inside) * bits
    if width % 8 or before * bits % 8:
        return None
    nbytes = width // 8
    repeats = math.prod(sizes[axis] for axis in outside)
    step = sizes[EXPERT] if EXPERT in template.axes else 1
    first = expert if EXPERT in template.axes else 0
    runs = tuple(
        Run(info, before * bits // 8 + (first + k * step) * nbytes, nbytes)
        for info in _of_expert(template, infos, sizes, expert)
        for k in range(repeats)
    )
    axes = [a for a in (*template.name_axes, *outside, *inside) if a != EXPERT and sizes[a] != 1]
    return Region(runs, tuple(axes), tuple(sizes[axis] for axis in axes), bits)


def _of_expert(
    template: Template, infos: Sequence[TensorInfo], sizes: Mapping[str, int], expert: int
) -> Iterator[TensorInfo]:
    """Yield the tensors that hold the expert, in the order of the axes in their names."""
    spans = [
        range(expert, expert + 1) if axis == EXPERT else range(sizes[axis])
        for axis in template.name_axes
    ]
    for position in itertools.product(*spans):
        number = 0
        for axis, k in zip(template.name_axes, position, strict=True):
            number = number * sizes[axis] + k
        yield infos[number]

"""Where one expert of one weight lies in the tensors of its layout. Pure.

A layout's template says which axes stand in a tensor's name and which in its shape. An expert is
what is left when `e` is settled: whole tensors where it stands in the name, a run of each tensor
where it is the outermost axis, and a run for each position on the axes outside of it elsewhere.
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
    """Bytes that belong together: runs one after the other, and the array that they are."""

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

    def cut(self, begin: int, end: int) -> Iterator[Run]:
        """The runs that hold the bytes `begin` to `end` of the region."""
        position = 0
        for run in self.runs:
            first, last = max(begin, position), min(end, position + run.nbytes)
            if first < last:
                yield Run(run.info, run.start + first - position, last - first)
            position += run.nbytes


def whole(info: TensorInfo) -> Region:
    """A tensor that stays as it is: its bytes, whatever they mean."""
    return Region((Run(info, 0, info.nbytes),), (), (), DTYPE_BITS[info.dtype])


def expert_region(
    template: Template,
    infos: Sequence[TensorInfo],
    sizes: Mapping[str, int],
    expert: int,
    before: int = 0,
) -> Region | None:
    """One expert of a weight; None where it does not begin and end with whole bytes.

    `infos` are the weight's tensors in the order of the axes in their names, `sizes` those of all
    axes, `before` how many elements of each tensor are another weight's.
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
    """The tensors that hold the expert, in the order of the axes in their names."""
    spans = [
        range(expert, expert + 1) if axis == EXPERT else range(sizes[axis])
        for axis in template.name_axes
    ]
    for position in itertools.product(*spans):
        number = 0
        for axis, k in zip(template.name_axes, position, strict=True):
            number = number * sizes[axis] + k
        yield infos[number]

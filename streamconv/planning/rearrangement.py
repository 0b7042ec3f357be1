"""How bytes move from where axes live to where they are to live: two templates determine it. Pure.

There is no table of pairs, and no direction that has to be written twice. An axis of size one may
be missing on either side.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from streamconv.catalog.templates import EXPERT, Template
from streamconv.errors import UsageError


@dataclass(frozen=True, slots=True)
class Rearrangement:
    """How the bytes of one output tensor come from its inputs, unit by unit.

    A unit is a contiguous run of the output: one expert, where the tensor holds several. For
    unit k, `run` bytes are read from each of `inputs` tensors and stand one after the other in
    memory; the unit is that memory seen as a strided array, in C order. Sizes in bytes, except
    `start`, `shape` and `strides`, which count elements of `itemsize` bytes.
    """

    units: int
    inputs: int
    advance: bool
    """Whether unit k has the k-th `inputs` tensors to itself, or a later run of the same ones."""
    base: int
    """Offset in each input at which unit 0 reads."""
    stride: int
    """What that offset grows by from unit to unit."""
    run: int
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int

    @property
    def is_copy(self) -> bool:
        """Whether the bytes keep their order, so that they are never touched."""
        return self.start == 0 and (not self.shape or self.strides == (1,))

    @property
    def takes(self) -> int:
        """How many tensors all units together are made from."""
        return self.inputs * self.units if self.advance else self.inputs

    @property
    def unit_bytes(self) -> int:
        """Bytes of output in a unit."""
        return math.prod(self.shape) * self.itemsize

    @property
    def buffer_bytes(self) -> int:
        """Bytes of input that have to be in memory at once."""
        return 0 if self.is_copy else self.inputs * self.run

    def reads(self, unit: int) -> list[tuple[int, int]]:
        """For each run of `unit`: which input, and the byte offset in it."""
        first = unit * self.inputs if self.advance else 0
        offset = self.base + unit * self.stride
        return [(first + k, offset) for k in range(self.inputs)]


@functools.cache
def copy_of(nbytes: int) -> Rearrangement:
    """A tensor of `nbytes` that stays as it is."""
    return Rearrangement(1, 1, False, 0, 0, nbytes, 0, (nbytes,), (1,), 1)


def plan_rearrangement(
    source: Template,
    target: Template,
    sizes: Mapping[str, int],
    fixed: Mapping[str, int],
    bits: int,
    before: int = 0,
) -> Rearrangement:
    """How one tensor of `target` is made from the tensors of `source`.

    `fixed` gives the position on each axis in the target's name. The inputs are the source's
    tensors at these positions, the other axes of its name counted in their order there; `before`
    elements of each of them are something else's.
    Streams along the experts where both sides keep them outermost; otherwise the whole tensor
    is one unit. `bits` is the width of an element; one that is not whole bytes can only be
    copied. Raises UsageError where axes or bits make that impossible.
    """
    missing = {*source.name_axes, *source.axes} ^ {*target.name_axes, *target.axes}
    fixed = {**{axis: 0 for axis in missing if sizes[axis] == 1}, **fixed}
    if any(sizes[axis] != 1 for axis in missing):
        raise UsageError(
            f"'{source.name}' and '{target.name}' do not have the same axes: "
            f"only one of them has {', '.join(sorted(missing))}"
        )

    def outermost(template: Template) -> bool:
        return EXPERT in (*template.name_axes[:1], *template.axes[:1])

    streamed = EXPERT in target.axes and outermost(source) and outermost(target)
    settled = {*fixed, EXPERT} if streamed else {*fixed}
    rest = list(source.axes)
    while rest and rest[0] in settled:
        rest.pop(0)
    run = math.prod(sizes[axis] for axis in rest)
    base, stride = before, 0
    width = run
    for axis in reversed(source.axes[: len(source.axes) - len(rest)]):
        if axis in fixed:
            base += fixed[axis] * width
        else:
            stride = width
        width *= sizes[axis]

    free = [axis for axis in source.name_axes if axis not in settled]
    steps: dict[str, int] = {}
    width = 1
    for axis in reversed([*free, *rest]):
        steps[axis] = width
        width *= sizes[axis]
    start = sum(fixed[axis] * steps[axis] for axis in rest if axis in fixed)
    order = [a for a in target.axes if a not in settled and sizes[a] != 1]
    shape, strides = _glue([sizes[a] for a in order], [steps[a] for a in order])

    inputs = math.prod(sizes[axis] for axis in free)
    if strides in ((), (1,)) and inputs == 1:
        run, base, start = math.prod(shape), base + start, 0
    in_bytes = [n * bits for n in (base, stride, run)]
    if any(n % 8 for n in in_bytes) or (bits % 8 and strides != (1,)):
        raise UsageError(
            f"'{source.name}' to '{target.name}' would move elements of {bits} bits, "
            "which can only be done in whole bytes that keep their order"
        )
    if bits % 8:
        shape, bits = (run * inputs * bits // 8,), 8
    base, stride, run = (n // 8 for n in in_bytes)
    return Rearrangement(
        units=sizes[EXPERT] if streamed else 1,
        inputs=inputs,
        advance=streamed and EXPERT in source.name_axes,
        base=base,
        stride=stride,
        run=run,
        start=start,
        shape=shape,
        strides=strides,
        itemsize=bits // 8,
    )


def _glue(shape: list[int], strides: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The same strided array with neighbouring dimensions joined where one continues the other."""
    glued: list[tuple[int, int]] = []
    for extent, stride in zip(shape, strides, strict=True):
        if glued and glued[-1][1] == extent * stride:
            glued[-1] = (glued[-1][0] * extent, stride)
        else:
            glued.append((extent, stride))
    return tuple(extent for extent, _ in glued), tuple(stride for _, stride in glued)

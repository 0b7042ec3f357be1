"""Plan how bytes move between two layouts of one weight.

The two templates determine it: there is no table of pairs of layouts, and no direction has code of
its own. Either side may lack an axis of size one. The source may also lack an axis whose positions
share their numbers.

An example with E = 8 experts, I = 3, H = 4 and two bytes an element:

    source   experts.gate_up_proj : e h (p i)     shape [8, 4, 6]
    target   experts.gate_up_proj : e (p i) h     shape [8, 6, 4]

Both have the experts outermost, so a unit is an expert. What it reads, in elements:

    axes inside e       h, p, i                   4 * 2 * 3 = 24 elements, all needed
    base, stride        0, 24                     unit k reads elements 24 k to 24 k + 23

What it makes of these 24 elements, as a strided array:

    their strides       h: 6, p: 3, i: 1
    in target's order   p, i, h                   shape (2, 3, 4), strides (3, 1, 6)
    joined              (p i), h                  shape (6, 4), strides (1, 6)

In bytes: base 0, stride 48, input_bytes 48; shape and strides still count elements, of itemsize 2.

The up projection of expert 5 alone, `experts.{e}.{p}.weight : i h` with e = 5 and p = 1, is one
unit. It reads the same 24 elements of expert 5, from element 5 * 24 = 120, and its array starts at
element 1 * 3 = 3 of these: shape (3, 4), strides (1, 6).
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from streamconv.catalog.templates import EXPERT, Template
from streamconv.errors import UsageError
from streamconv.planning.rearrangement import Rearrangement


@dataclass(frozen=True, slots=True)
class _Reads:
    """The elements that each unit reads from each of its inputs."""

    base: int
    stride: int
    count: int
    axes: tuple[str, ...]
    """The axes over which these elements extend, outermost first."""


@dataclass(frozen=True, slots=True)
class _View:
    """A unit's output as a strided array over what it has read, in elements."""

    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def plan_rearrangement(
    source: Template,
    target: Template,
    sizes: Mapping[str, int],
    fixed: Mapping[str, int],
    bits: int,
    before: int = 0,
    shared: Collection[str] = (),
) -> Rearrangement:
    """Plan how one tensor of `target` is made from tensors of `source`.

    Its units are the experts if both sides have them outermost. Otherwise it is a single unit.

    Args:
        source: Where each axis lives in the inputs.
        target: Where each axis is to live.
        sizes: Size of each axis.
        fixed: Position of the output tensor on each axis in its name. Its inputs are the source's
            tensors with these positions, in the order of the other axes in their names.
        bits: Width of an element. Elements that are not whole bytes can only be copied.
        before: Elements at the start of each input that belong to another weight.
        shared: Axes that the source may lack: each position of the target has a copy.

    Raises:
        UsageError: The two sides have different axes, or elements of less than a byte would move.
    """
    fixed = {**_absent_axes(source, target, sizes, shared), **fixed}
    streamed = EXPERT in target.axes and _expert_is_outermost(source, target)
    settled = {*fixed, EXPERT} if streamed else {*fixed}
    free = [axis for axis in source.name_axes if axis not in settled]
    inputs = math.prod(sizes[axis] for axis in free)
    reads = _plan_reads(source, sizes, fixed, settled, before)
    view = _plan_view([*free, *reads.axes], target, sizes, fixed, settled)
    if view.strides in ((), (1,)) and inputs == 1:
        # The output is contiguous in its input, so that nothing else has to be read.
        count = math.prod(view.shape)
        reads = _Reads(reads.base + view.start, reads.stride, count, ())
        view = _View(0, view.shape, view.strides)
    base, stride, input_bytes, view, itemsize = _in_bytes(source, target, reads, view, inputs, bits)
    return Rearrangement(
        units=sizes[EXPERT] if streamed else 1,
        inputs=inputs,
        advance=streamed and EXPERT in source.name_axes,
        base=base,
        stride=stride,
        input_bytes=input_bytes,
        start=view.start,
        shape=view.shape,
        strides=view.strides,
        itemsize=itemsize,
    )


def _absent_axes(
    source: Template, target: Template, sizes: Mapping[str, int], shared: Collection[str]
) -> dict[str, int]:
    """Return position 0 for each axis that one side lacks, except the shared axes of the source.

    Raises UsageError if such an axis is longer than 1.
    """
    ours, theirs = ({*template.name_axes, *template.axes} for template in (source, target))
    absent = (ours ^ theirs) - (theirs & {*shared})
    if any(sizes[axis] != 1 for axis in absent):
        raise UsageError(
            f"'{source.name}' and '{target.name}' do not have the same axes: "
            f"only one of them has {', '.join(sorted(absent))}"
        )
    return dict.fromkeys(absent, 0)


def _expert_is_outermost(*templates: Template) -> bool:
    """Return True if all templates have the experts outermost, in the name or in the shape."""
    return all(EXPERT in (*t.name_axes[:1], *t.axes[:1]) for t in templates)


def _plan_reads(
    source: Template,
    sizes: Mapping[str, int],
    fixed: Mapping[str, int],
    settled: set[str],
    before: int,
) -> _Reads:
    """Plan the reads of each input.

    `settled` are the axes on which a unit has one position: the fixed ones, and the experts if
    they are the units. Those that are outermost in the shape only move the offset.
    """
    inner = list(source.axes)
    while inner and inner[0] in settled:
        inner.pop(0)
    count = math.prod(sizes[axis] for axis in inner)
    base, stride, width = before, 0, count
    for axis in reversed(source.axes[: len(source.axes) - len(inner)]):
        if axis in fixed:
            base += fixed[axis] * width
        else:
            stride = width
        width *= sizes[axis]
    return _Reads(base, stride, count, tuple(inner))


def _plan_view(
    axes: list[str],
    target: Template,
    sizes: Mapping[str, int],
    fixed: Mapping[str, int],
    settled: set[str],
) -> _View:
    """Plan a unit's output over the elements in memory, which extend over `axes`."""
    stride_of: dict[str, int] = {}
    width = 1
    for axis in reversed(axes):
        stride_of[axis] = width
        width *= sizes[axis]
    start = sum(fixed[axis] * stride_of[axis] for axis in axes if axis in fixed)
    order = [axis for axis in target.axes if axis not in settled and sizes[axis] != 1]
    shape, strides = _join([sizes[a] for a in order], [stride_of.get(a, 0) for a in order])
    return _View(start, shape, strides)


def _join(shape: list[int], strides: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Join neighboring dimensions of a strided array if one continues the other."""
    joined: list[tuple[int, int]] = []
    for extent, stride in zip(shape, strides, strict=True):
        if joined and joined[-1][1] == extent * stride:
            joined[-1] = (joined[-1][0] * extent, stride)
        else:
            joined.append((extent, stride))
    return tuple(extent for extent, _ in joined), tuple(stride for _, stride in joined)


def _in_bytes(
    source: Template, target: Template, reads: _Reads, view: _View, inputs: int, bits: int
) -> tuple[int, int, int, _View, int]:
    """Convert reads from elements of `bits` to bytes: base, stride, count, view and item size.

    Elements that are not whole bytes are copied as bytes. Raises UsageError if they would have to
    be moved one by one, or if a read would begin or end inside a byte.
    """
    in_bits = [count * bits for count in (reads.base, reads.stride, reads.count)]
    if any(count % 8 for count in in_bits) or (bits % 8 and view.strides != (1,)):
        raise UsageError(
            f"'{source.name}' to '{target.name}' would move elements of {bits} bits, "
            "which can only be done in whole bytes that keep their order"
        )
    base, stride, count = (n // 8 for n in in_bits)
    if bits % 8:
        return base, stride, count, _View(view.start, (count * inputs,), view.strides), 1
    return base, stride, count, view, bits // 8

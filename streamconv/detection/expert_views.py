"""Experts one by one, as views of the tensors that hold several of them.

A number format is defined for a matrix of rows and columns. So experts that are merged, transposed
or interleaved are seen as in the layout `per-expert` before they are quantized.
"""

import itertools
import math
from collections.abc import Iterator

from streamconv.catalog.layouts import PER_EXPERT, NamedLayout
from streamconv.catalog.templates import Template
from streamconv.catalog.weight_kinds import MATRICES
from streamconv.checkpoint.encoding import View
from streamconv.checkpoint.types import Cast, TensorInfo
from streamconv.detection.detect import Detected
from streamconv.detection.stacks import Module, Stack
from streamconv.errors import PlanRefused, quoted
from streamconv.formats.safetensors import DTYPE_BITS


def is_one_by_one(stack: Stack) -> bool:
    """Return True if each matrix of each expert is a tensor of its own, with outputs as rows."""
    return stack.row.layout.name == PER_EXPERT


def one_by_one(found: Detected, stack: Stack) -> NamedLayout:
    """Return the layout and naming in which a stack's experts are seen one by one."""
    return NamedLayout(found.catalog.find_layout(PER_EXPERT), found.namings[stack.pattern])


def expert_views(found: Detected, stack: Stack, module: Module) -> Iterator[TensorInfo]:
    """Yield the tensors of a module's experts one by one, each a view of a tensor of the module.

    Raises PlanRefused if they have a tensor that has no place in the layout `per-expert`.
    """
    row = one_by_one(found, stack)
    for weight, infos in module.tensors.items():
        target = row.layout.templates.get(weight)
        if target is None:
            raise PlanRefused(
                f"cannot quantize {quoted(module.prefix)}experts: {quoted(infos[0].name)} belongs "
                f"to them, and the layout {PER_EXPERT} has no place for it",
                "convert to per-expert first, and quantize the result",
            )
        source = stack.row.layout.templates[weight]
        before = stack.row.layout.elements_before(weight, stack.sizes)
        for position in itertools.product(*(range(stack.sizes[a]) for a in target.name_axes)):
            at = dict(zip(target.name_axes, position, strict=True))
            info = infos[_number(source, stack, at)]
            shape = target.shape(stack.sizes)
            view = _view(source, target, stack, at, before)
            name = found.names.apply(module.prefix + row.name(target, position))
            nbytes = math.prod(shape) * DTYPE_BITS[info.dtype] // 8
            yield info._replace(name=name, shape=shape, nbytes=nbytes, cast=Cast(info, view=view))


def is_matrix(weight: str) -> bool:
    """Return True if a weight of a stack is a matrix of numbers, not a bias or a scale."""
    return weight in MATRICES


def _number(source: Template, stack: Stack, at: dict[str, int]) -> int:
    """Return the index, among a weight's tensors, of the one that holds a position."""
    number = 0
    for axis in source.name_axes:
        number = number * stack.sizes[axis] + at[axis]
    return number


def _view(
    source: Template, target: Template, stack: Stack, at: dict[str, int], before: int
) -> View:
    """Return where the axes of a tensor of the target are in a tensor of the source."""
    stride, strides = 1, {}
    for axis in reversed(source.axes):
        strides[axis] = stride
        stride *= stack.sizes[axis]
    start = before + sum(n * strides[axis] for axis, n in at.items() if axis in strides)
    # an axis of size one may be missing on either side
    return View(start, tuple(strides.get(dim[0], 1) for dim in target.dims))

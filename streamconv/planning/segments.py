"""Segments: the parts of a tensor's dimension that are each divided among the ranks.

A rank that has a quarter of `experts.gate_up_proj : e (p i) h` along its second dimension has a
quarter of gate and a quarter of up. Of `e h (i p)` it has a quarter of the pairs.
"""

import itertools
import math
from collections.abc import Iterable, Mapping

from streamconv.catalog.layouts import NamedLayout
from streamconv.catalog.templates import Template
from streamconv.detection.detect import Detected


def segments_of(
    row: NamedLayout, weights: Iterable[str], sizes: Mapping[str, int], axis: int
) -> tuple[int, ...]:
    """Return the lengths of the segments of a tensor's dimension, in order.

    Args:
        row: Layout and naming of the tensor.
        weights: The weights in the tensor, which are concatenated on the first dimension.
        sizes: Size of each axis.
        axis: The dimension.
    """
    templates = [row.layout.templates[weight] for weight in weights]
    chosen = templates if axis == 0 else templates[:1]
    return tuple(itertools.chain.from_iterable(_segments(row, one, sizes, axis) for one in chosen))


def _segments(
    row: NamedLayout, template: Template, sizes: Mapping[str, int], axis: int
) -> list[int]:
    count = 1
    for name in template.dims[axis]:
        if name not in row.naming.tokens:
            break
        count *= sizes[name]
    return [math.prod(sizes[name] for name in template.dims[axis]) // count] * count


def stored_segments(source: Detected, name: str, axis: int) -> tuple[int, ...] | None:
    """Return the lengths of the segments of a stored tensor's dimension.

    Args:
        source: The checkpoint.
        name: Name of the tensor in it.
        axis: The dimension.

    Returns:
        The lengths, or None if the tensor is in no stack and no group.
    """
    for stack in (*source.stacks, *source.groups):
        for module in stack.modules:
            weights = [
                weight
                for weight, infos in module.tensors.items()
                if any(info.name == name for info in infos)
            ]
            if weights:
                return segments_of(stack.row, weights, stack.sizes, axis)
    return None

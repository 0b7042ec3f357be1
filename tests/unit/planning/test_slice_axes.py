"""Boxes on the axes of a section: they are cut at every end, and each position is taken once."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamconv.planning.rearrangement import Rearrangement
from streamconv.planning.slice_axes import Dimension, axis_ranges, common_axes

EXPERTS = Rearrangement(
    units=8,
    inputs=2,
    advance=True,
    base=0,
    stride=0,
    input_bytes=24,
    start=0,
    shape=(4, 6),
    strides=(1, 4),
    itemsize=2,
)
"""`e h (p i)` of `experts.{e}.{p} : i h`: 8 experts, 4 by 2 times 3."""


def test_axes_end_where_dimensions_and_inputs_do() -> None:
    axes = common_axes(EXPERTS, [8, 4, 6])
    assert [(axis.extent, axis.stride, axis.of_units) for axis in axes] == [
        (8, 1, True),
        (4, 1, False),
        (2, 12, False),
        (3, 4, False),
    ]


@pytest.mark.parametrize(
    ("shape", "extents"),
    [
        ([192], [8, 4, 2, 3]),
        ([2, 4, 24], [2, 4, 4, 2, 3]),
        ([8, 2, 12], [8, 2, 2, 2, 3]),
    ],
)
def test_axes_of_other_shapes(shape: list[int], extents: list[int]) -> None:
    """Of the same elements."""
    assert [axis.extent for axis in common_axes(EXPERTS, shape)] == extents


@settings(deadline=None, max_examples=100)
@given(
    shape=st.sampled_from([[8, 4, 6], [32, 6], [8, 24], [192], [2, 4, 24], [8, 2, 12]]),
    picked=st.data(),
)
def test_every_position_of_a_box_is_taken_once(shape: list[int], picked: Any) -> None:
    """Those that numpy has in the same slice."""
    box = []
    for size in shape:
        begin = picked.draw(st.integers(0, size - 1))
        box.append((begin, picked.draw(st.integers(begin + 1, size))))
    dims = [
        Dimension(size, span, extent=size, at=span[0])
        for size, span in zip(shape, box, strict=True)
    ]
    taken = [
        sum(k * axis.target_stride for k, axis in zip(position, axes, strict=True))
        for ranges in itertools.product(*axis_ranges(common_axes(EXPERTS, shape), dims))
        for axes in [list(itertools.chain.from_iterable(ranges))]
        for position in itertools.product(*(range(*axis.span) for axis in axes))
    ]
    whole = np.arange(math.prod(shape)).reshape(shape)
    assert sorted(taken) == whole[tuple(slice(*span) for span in box)].reshape(-1).tolist()

"""Slices of output tensors: their bytes are those of the whole tensor, and no more is read."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from header_models import MERGED, PLANS, model, plan_from, planned
from hypothesis import given, settings
from hypothesis import strategies as st

from streamconv.errors import UsageError
from streamconv.planning.rearrangement import Rearrangement
from streamconv.planning.slices import SlicePart, slice_parts
from streamconv.planning.steps import Step

Bytes = npt.NDArray[np.uint8]


def contents(plan: Any) -> dict[str, Bytes]:
    """Random bytes for each source tensor."""
    numbers = np.random.default_rng(0)
    return {
        name: numbers.integers(0, 256, info.nbytes, np.uint8)
        for name, info in plan.checkpoint.tensors.items()
    }


def unit(
    how: Rearrangement, number: int, inputs: Sequence[Any], data: Mapping[str, Bytes]
) -> Bytes:
    """What a unit makes of its inputs, as the words of `Rearrangement` say."""
    memory = np.concatenate(
        [data[inputs[k].name][at : at + how.input_bytes] for k, at in how.reads(number)]
    )
    view: Bytes = np.ndarray(
        (*how.shape, how.itemsize),
        np.uint8,
        memory,
        how.start * how.itemsize,
        (*(stride * how.itemsize for stride in how.strides), 1),
    )
    return view.reshape(-1)


def whole(step: Step, data: Mapping[str, Bytes]) -> Bytes:
    """A tensor, with an axis for the bytes of its elements."""
    parts = [
        unit(how, number, step.inputs_of(section), data)
        for section, how in enumerate(step.sections)
        for number in range(how.units)
    ]
    itemsize = step.nbytes // math.prod(step.shape)
    return np.concatenate(parts).reshape(*step.shape, itemsize)


def sliced(step: Step, box: Sequence[tuple[int, int]], data: Mapping[str, Bytes]) -> Bytes:
    """The bytes of a slice, part by part; every byte is made once."""
    itemsize = step.nbytes // math.prod(step.shape)
    shape = [*(end - begin for begin, end in box), itemsize]
    out = np.zeros(math.prod(shape), np.uint8)
    times = np.zeros(math.prod(shape), np.uint8)
    for part in slice_parts(step, box):
        made = unit(part.how, 0, part.inputs, data).reshape(*part.how.shape, part.how.itemsize)
        strides = (*(stride * part.how.itemsize for stride in part.strides), 1)
        for array, values in ((out, made), (times, np.uint8(1))):
            target: Bytes = np.ndarray(
                made.shape, np.uint8, array, part.start * part.how.itemsize, strides
            )
            target[...] = target * (array is times) + values
    assert (times == 1).all()
    return out.reshape(shape)


@settings(deadline=None, max_examples=150)
@given(drawn=PLANS, picked=st.data())
def test_a_slice_is_cut_from_the_whole(drawn: Mapping[str, Any], picked: st.DataObject) -> None:
    """Of any tensor, in any box, between all layouts."""
    plan = plan_from(drawn)
    data = contents(plan)
    for step in (step for step in plan.steps if step.nbytes and step.dtype != "F4"):
        box = [
            tuple(sorted((picked.draw(st.integers(0, n)), picked.draw(st.integers(0, n)))))
            for n in step.shape
        ]
        expected = whole(step, data)[tuple(slice(*span) for span in box)]
        np.testing.assert_array_equal(sliced(step, box, data), expected)
        full = [(0, n) for n in step.shape]
        np.testing.assert_array_equal(sliced(step, full, data), whole(step, data))


def read_bytes(parts: Sequence[SlicePart]) -> int:
    return sum(part.read_bytes for part in parts)


@pytest.mark.parametrize("source", ["per-expert", *MERGED])
@pytest.mark.parametrize("target", ["per-expert", *MERGED])
def test_no_more_is_read_than_the_slice_has(source: str, target: str) -> None:
    """Of whole tensors and of whole experts: exactly their own bytes."""
    sizes: dict[str, Any] = {"layers": 1, "e": 12, "i": 6, "h": 8}
    plan = planned(model(**sizes, layout=source), target, declared_layout=source)
    for step in plan.steps:
        if not step.nbytes:
            assert not list(slice_parts(step, [(0, n) for n in step.shape]))
            continue
        parts = list(slice_parts(step, [(0, n) for n in step.shape]))
        assert read_bytes(parts) == step.nbytes == sum(part.nbytes for part in parts)
        if step.shape and step.shape[0] == 12:
            box = [(3, 7), *((0, n) for n in step.shape[1:])]
            assert read_bytes(list(slice_parts(step, box))) * 3 == step.nbytes


def test_rows_are_read_alone_and_columns_with_their_projection() -> None:
    """From per-expert to fused: rows of gate, rows over both, and columns."""
    plan = planned(model(layers=1, e=4, i=6, h=8), "fused")
    step = plan.step("model.layers.1.mlp.experts.gate_up_proj")
    assert step.shape == (4, 12, 8)
    rows = list(slice_parts(step, [(1, 3), (4, 9), (0, 8)]))
    assert read_bytes(rows) == 2 * 5 * 8 * 2
    columns = list(slice_parts(step, [(1, 3), (4, 9), (2, 3)]))
    assert read_bytes(columns) <= 2 * 2 * 6 * 8 * 2
    assert all(part.is_copy for part in rows)
    assert sum(part.nbytes for part in columns) == 2 * 5 * 2


def test_elements_of_half_a_byte() -> None:
    """Are cut where a byte ends, or not at all."""
    step = planned(model()).step("model.a_packed")
    assert (step.dtype, step.shape) == ("F4", (3, 2))
    (part,) = slice_parts(step, [(1, 3), (0, 2)])
    assert (part.how.base, part.read_bytes, part.nbytes, part.is_copy) == (1, 2, 2, True)
    with pytest.raises(UsageError, match="not whole bytes"):
        list(slice_parts(step, [(1, 3), (0, 1)]))

"""Indices mean what they mean to safetensors, with its errors."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from streamconv.lazy.indexing import Selection, select_numpy, select_torch

ABSURD_SIZE = "exceeded|cannot reshape"
SHAPES = ((), (0, 3), (5,), (2, 3, 4), (3, 1, 2, 2))
NUMBER = st.integers(-7, 7)
SLICE = st.builds(slice, st.none() | NUMBER, st.none() | NUMBER, st.none() | st.integers(-1, 3))
PART = st.one_of(
    NUMBER,
    NUMBER.map(np.int64),
    SLICE,
    st.none(),
    st.just(...),
    st.booleans(),
    st.sampled_from([1.5, "x", 2**70, -(2**70), slice(0, 2**70), slice(0, 2.5)]),
)
MANY = st.lists(PART, max_size=5).map(tuple)
INDEX = PART | MANY | st.lists(NUMBER, max_size=3)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tensors") / "x.safetensors"
    tensors = {
        str(shape): torch.arange(math.prod(shape), dtype=torch.int16).reshape(shape)
        for shape in SHAPES
    }
    save_file(tensors, path)
    return path


def outcome(read: Any) -> Any:
    """What comes of an index: shape and elements, or the error."""
    try:
        found = read()
    except Exception as error:
        return type(error), str(error)
    return tuple(found.shape), found.flatten().tolist()


@pytest.mark.parametrize("framework", ["pt", "np"])
@settings(
    deadline=None, max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(shape=st.sampled_from(SHAPES), index=INDEX)
@pytest.mark.filterwarnings("ignore")
def test_an_index_selects_what_it_selects_there(
    file: Path, framework: str, shape: Sequence[int], index: Any
) -> None:
    """Element by element, or with the same error."""
    whole: Any = np.arange(math.prod(shape), dtype=np.int16).reshape(shape)
    if framework == "pt":
        whole = torch.from_numpy(whole)

    def selected() -> Any:
        found: Selection | None = (select_torch if framework == "pt" else select_numpy)(
            index, shape
        )
        if found is None:
            return whole[index]
        box = whole[tuple(slice(*span) for span in found.box)]
        return box[found.then] if found.then else box

    with safe_open(file, framework) as opened:
        expected = outcome(lambda: opened.get_slice(str(shape))[index])
    if expected[0] in (SystemError, MemoryError) or re.search(ABSURD_SIZE, str(expected[1])):
        return  # of a slice that ends before it begins, safetensors takes a negative size
    assert outcome(selected) == expected


@pytest.mark.parametrize("index", [(..., ..., slice(0, 2)), (..., 0, ...), (..., None, ..., 1)])
def test_several_ellipses_are_left_to_torch(index: Any) -> None:
    """It lets the second one skip dimensions that are not there."""
    assert select_torch(index, (3, 1, 2, 2)) is None

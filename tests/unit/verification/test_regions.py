"""The bytes of one expert, compared with slices of whole arrays in numpy."""

import math

import numpy as np
import pytest

from streamconv.catalog.templates import Template
from streamconv.checkpoint.types import TensorInfo
from streamconv.verification.regions import expert_region, whole

SIZES = {"e": 3, "p": 2, "i": 4, "h": 5}


def info(name: str, *shape: int, dtype: str = "U8") -> TensorInfo:
    return TensorInfo(name, dtype, shape, "model.safetensors", 0, math.prod(shape))


@pytest.mark.parametrize("axes", ["e p i h", "e h p i", "h e i p", "p i h e", "i h"])
@pytest.mark.parametrize("expert", range(3))
def test_an_expert_is_a_slice(axes: str, expert: int) -> None:
    """Of one tensor that holds all of them, wherever the axis of experts is."""
    template = Template.parse(f"experts.w : {axes}")
    shape = tuple(SIZES[axis] for axis in axes.split())
    array = np.arange(math.prod(shape), dtype=np.uint8).reshape(shape)
    region = expert_region(template, [info("w", *shape)], SIZES, expert)
    assert region is not None
    raw = array.tobytes()
    found = b"".join(raw[run.start : run.start + run.nbytes] for run in region.runs)
    names = axes.split()
    expected = array.take(expert, names.index("e")) if "e" in names else array
    assert np.array_equal(np.frombuffer(found, np.uint8).reshape(region.shape), expected)
    assert region.axes == tuple(name for name in names if name != "e")


def test_a_tensor_for_each_expert() -> None:
    """Of which the region has the one with the expert's number, and both projections."""
    template = Template.parse("experts.{e}.{p}.weight : i h")
    infos = [info(f"{e}.{p}", 4, 5) for e in range(3) for p in range(2)]
    region = expert_region(template, infos, SIZES, 1)
    assert region is not None
    assert [run.info.name for run in region.runs] == ["1.0", "1.1"]
    assert region.axes == ("p", "i", "h")


@pytest.mark.parametrize(("dtype", "columns"), [("F4", 2), ("F4", 3)])
def test_whole_bytes_only(dtype: str, columns: int) -> None:
    """An expert of an odd number of half bytes has no region."""
    template = Template.parse("experts.w : e h")
    tensor = info("w", 4, columns, dtype=dtype)
    region = expert_region(template, [tensor], {"e": 4, "h": columns}, 1)
    assert (region is None) == (columns % 2 == 1)


def test_runs_between_two_positions() -> None:
    template = Template.parse("experts.w : h e i")
    region = expert_region(template, [info("w", 5, 3, 4)], SIZES, 2)
    assert region is not None
    assert [(run.start, run.nbytes) for run in region.cut(2, 9)] == [(10, 2), (20, 4), (32, 1)]
    assert [(run.start, run.nbytes) for run in whole(info("x", 7)).cut(3, 7)] == [(3, 4)]

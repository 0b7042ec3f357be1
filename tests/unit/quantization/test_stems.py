"""A weight and what belongs to it, by the beginning of their names."""

import pytest

from streamconv.checkpoint.types import TensorInfo
from streamconv.quantization.stems import (
    Stem,
    belongs_to_a_weight,
    decoded_name,
    looks_quantized,
    stems,
)


def info(name: str, dtype: str = "F32") -> TensorInfo:
    return TensorInfo(name, dtype, (2, 2), "", 0, 16)


def grouped(**dtypes: str) -> dict[str, Stem]:
    return stems({name: info(name, dtype) for name, dtype in dtypes.items()})


def test_tensors_are_grouped_under_their_words() -> None:
    """Both spellings: `a.weight_scale`, and `down_proj_scale` after a weight without an ending."""
    names = ["a.weight", "down_proj_scale", "a.weight_scale", "down_proj", "norm.weight"]
    made = stems({name: info(name) for name in names})
    assert {stem: list(each.tensors) for stem, each in made.items()} == {
        "a": ["weight", "weight_scale"],
        "down_proj": ["weight_scale", "weight"],
        "norm": ["weight"],
    }
    scale = made["a"].find(["weight_scale_inv", "weight_scale"])
    assert scale is not None
    assert scale.name == "a.weight_scale"
    assert made["a"].find(["x"]) is None


@pytest.mark.parametrize(
    ("codes", "name"),
    [
        ("a.weight_packed", "a.weight"),
        ("a.qweight", "a.weight"),
        ("a.weight", "a.weight"),
        ("experts.down_proj_blocks", "experts.down_proj"),
        ("experts.down_proj", "experts.down_proj"),
    ],
)
def test_the_name_of_the_weight_that_codes_become(codes: str, name: str) -> None:
    assert decoded_name(codes) == name


@pytest.mark.parametrize(
    ("name", "belongs"),
    [
        ("a.weight_scale", True),
        ("a.weight_scale_inv", True),
        ("layer_scale", False),
        ("norm.scale", False),
        ("a.weight", False),
    ],
)
def test_names_that_mean_nothing_without_a_weight(name: str, belongs: bool) -> None:
    """A tensor may be called a scale and be none of a weight's."""
    assert belongs_to_a_weight(name) == belongs


@pytest.mark.parametrize(
    ("tensors", "looks"),
    [
        ({"a.weight": "F8_E4M3"}, True),
        ({"a.weight": "U8"}, False),
        ({"a.weight": "U8", "a.weight_scale": "F32"}, True),
        ({"a.weight_scale": "F32"}, True),
        ({"a.scale": "F32"}, False),
        ({"a.weight": "BF16", "a.scale": "F32"}, False),
        ({"a.weight": "BF16", "a.weight_scale": "F32"}, True),
        ({"a.weight": "BF16", "a.bias": "BF16"}, False),
    ],
)
def test_what_has_to_be_of_some_number_format(tensors: dict[str, str], looks: bool) -> None:
    """By codes of eight bits, or by a companion that belongs to nothing but codes."""
    (stem,) = grouped(**tensors).values()
    assert looks_quantized(stem) == looks

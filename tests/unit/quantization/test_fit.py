"""Sizes of matrices: those that a tensor says have to be those of the codes."""

from dataclasses import replace

import pytest
import torch
from decoded import decoded_of, source_of
from quantized import CASES

from streamconv.errors import BadCheckpoint


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ([24, 72], r"says \[24, 72\], and its codes are I32 \[24, 8\]"),
        ([25, 64], r"says \[25, 64\], and"),
        ([24, 0], "which is no matrix"),
        ([-24, 64], "which is no matrix"),
        ([24, 2**40], "says"),
    ],
)
def test_a_shape_that_is_not_that_of_the_codes(shape: list[int], says: str) -> None:
    case = CASES["int4"]()
    tensors = {**case.tensors, ".weight_shape": torch.tensor(shape)}
    with pytest.raises(BadCheckpoint, match=says) as error:
        decoded_of(source_of(replace(case, tensors=tensors)), "BF16")
    assert "a.weight_shape" in error.value.message


@pytest.mark.parametrize("kind", ["int4", "int4, odd last group"])
def test_a_shape_that_is_missing(kind: str) -> None:
    """The last codes of a row may be padding: compressed-tensors needs the shape, too."""
    case = CASES[kind]()
    tensors = {name: t for name, t in case.tensors.items() if name != ".weight_shape"}
    with pytest.raises(BadCheckpoint, match=r"its shape a\.weight_shape is missing"):
        decoded_of(source_of(replace(case, tensors=tensors)), "BF16")


@pytest.mark.parametrize("change", ["fewer bytes in a group", "another axis last"])
def test_a_dimension_for_groups_that_holds_none(change: str) -> None:
    """As many bytes in all would do for the scales of gpt-oss."""
    case = CASES["mxfp4 of gpt-oss"]()
    blocks = case.tensors["_blocks"]
    other = blocks[..., :-1] if change.startswith("fewer") else blocks.mT
    tensors = {**case.tensors, "_blocks": other.contiguous()}
    with pytest.raises(BadCheckpoint, match=r"its shape .* is no matrix"):
        decoded_of(source_of(replace(case, tensors=tensors)), "BF16")


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("int4, odd last group", "group_size", None),
        ("int4, odd last group", "strategy", "channel"),
        ("fp8 blocks of compressed-tensors", "block_structure", None),
    ],
)
def test_groups_that_may_end_early(kind: str, key: str, value: object) -> None:
    """Three groups of 45 inputs may have 16, and not 15: that is not guessed."""
    case = CASES[kind]()
    section = case.config["quantization_config"]
    group = section["config_groups"]["group_0"]
    weights = {**group["weights"], "group_size": None, key: value}
    config = {**section, "config_groups": {"group_0": {**group, "weights": weights}}}
    with pytest.raises(
        BadCheckpoint, match=r"does not divide its shape.*config.json (does not say how|says group)"
    ):
        decoded_of(source_of(replace(case, config={"quantization_config": config})), "BF16")


@pytest.mark.parametrize(("key", "value"), [("num_bits", 4), ("type", "int")])
def test_other_codes_than_config_json_says(key: str, value: object) -> None:
    case = CASES["fp8 channels"]()
    section = case.config["quantization_config"]
    weights = {**section["config_groups"]["group_0"]["weights"], key: value}
    config = {**section, "config_groups": {"group_0": {"weights": weights}}}
    with pytest.raises(BadCheckpoint, match=r"config.json does not say so"):
        decoded_of(source_of(replace(case, config={"quantization_config": config})), "BF16")

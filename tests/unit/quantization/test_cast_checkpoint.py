"""What is cast and dequantized, which weights are chosen, and what is refused."""

import math
from typing import Any

import pytest

import streamconv
from streamconv.catalog.catalog import default_catalog
from streamconv.checkpoint.casting import AS_STORED, Casting
from streamconv.checkpoint.types import Checkpoint, TensorInfo
from streamconv.errors import BadCheckpoint, PlanRefused
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.quantization.cast_checkpoint import cast_checkpoint


def info(name: str, dtype: str = "F32", *shape: int) -> TensorInfo:
    return TensorInfo(name, dtype, shape, "f", 0, math.prod(shape) * DTYPE_BITS[dtype] // 8)


def stored(*tensors: TensorInfo, **config: object) -> Checkpoint:
    by_name = {tensor.name: tensor for tensor in tensors}
    return Checkpoint("here", by_name, (), (), config, None, 0)


def dtypes(checkpoint: Checkpoint, casting: Casting) -> dict[str, str]:
    return {name: t.dtype for name, t in cast_checkpoint(checkpoint, casting).tensors.items()}


def test_only_floats_are_cast_and_what_is_spared_is_not() -> None:
    """Integers, and floats that mean something only with their scales, stay."""
    dtypes_here = ("F64", "F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F4", "F8_E8M0")
    names = {f"a.{dtype}": dtype for dtype in dtypes_here}
    protected = {"a.norm.weight": "F32", "a.gate.weight": "F32", "a.w_scale_inv": "F32"}
    checkpoint = stored(*(info(name, dtype, 8) for name, dtype in (names | protected).items()))
    assert dtypes(checkpoint, AS_STORED) == names | protected
    floats = {f"a.{dtype}": "BF16" for dtype in ("F64", "F32", "F16", "BF16")}
    assert dtypes(checkpoint, Casting("BF16")) == names | protected | floats
    everything = floats | {"a.norm.weight": "BF16", "a.gate.weight": "BF16"}
    assert dtypes(checkpoint, Casting("BF16", everything=True)) == names | protected | everything


def test_what_transformers_keeps_in_fp32() -> None:
    """It stays in a model of fewer bits, and becomes fp32 in one of fp32."""
    family = default_catalog().find_family("flint")
    sinks, gate = "model.layers.0.self_attn.sinks", "model.layers.0.mlp.gate.weight"

    def cast(dtype: str, casting: Casting) -> dict[str, str]:
        checkpoint = stored(*(info(name, dtype, 8) for name in (sinks, gate)))
        found = cast_checkpoint(checkpoint, casting, family).tensors
        return {name: each.dtype for name, each in found.items()}

    assert cast("F32", Casting("BF16")) == {sinks: "F32", gate: "F32"}
    assert cast("BF16", Casting("F32")) == {sinks: "F32", gate: "BF16"}
    assert cast("F32", Casting("BF16", everything=True)) == {sinks: "BF16", gate: "BF16"}


def test_a_cast_tensor_has_its_new_size_and_knows_its_old_one() -> None:
    """What is of the dtype already is not cast."""
    checkpoint = stored(info("a", "BF16", 3, 5), info("b", "F32", 7))
    found = cast_checkpoint(checkpoint, Casting("F32")).tensors
    assert (found["a"].nbytes, found["a"].shape) == (60, (3, 5))
    assert found["a"].stored == (checkpoint.tensors["a"],)
    assert found["b"] is checkpoint.tensors["b"]
    assert found["b"].stored == (found["b"],)


# --- what is dequantized -----------------------------------------------------------------------

BF16 = Casting(dequantize="BF16")


def fp8(name: str, *shape: int, grid: tuple[int, ...] = (), scale: str = "F32") -> list[TensorInfo]:
    return [info(name, "F8_E4M3", *shape), info(f"{name}_scale_inv", scale, *grid)]


def block_of(
    shape: tuple[int, ...], grid: tuple[int, ...], stated: object = None
) -> tuple[int, int]:
    config: dict[str, Any] = {}
    if stated is not None:
        section = {"quant_method": "fp8", "weight_block_size": stated}
        config = {"text_config": {"quantization_config": section}}
    checkpoint = stored(*fp8("a.weight", *shape, grid=grid), **config)
    found = cast_checkpoint(checkpoint, BF16).tensors
    assert list(found) == ["a.weight"]
    weight = found["a.weight"]
    assert (weight.dtype, weight.nbytes) == ("BF16", 2 * math.prod(shape))
    assert weight.stored == tuple(checkpoint.tensors.values())
    assert weight.cast is not None
    assert weight.cast.decoding is not None
    scale = weight.cast.decoding.plane("scale")
    assert scale is not None
    return scale.block


@pytest.mark.parametrize(
    ("shape", "grid", "stated", "block"),
    [
        ((256, 384), (2, 3), [128, 128], (128, 128)),
        ((576, 7168), (5, 56), [128, 128], (128, 128)),
        ((192, 128), (2, 1), [128, 128], (128, 128)),
        ((320, 128), (3, 1), None, (128, 128)),
        ((256, 64), (256, 2), [1, 32], (1, 32)),
        ((4, 256, 128), (4, 2, 1), None, (128, 128)),
        ((256, 128), (), None, (256, 128)),
    ],
)
def test_the_block_is_the_configs_or_the_shapes(
    shape: tuple[int, ...], grid: tuple[int, ...], stated: object, block: tuple[int, int]
) -> None:
    """Without either, blocks are those of most releases."""
    assert block_of(shape, grid, stated) == block


@pytest.mark.parametrize(
    "stated",
    [0, -1, True, 10**40, 1.5, "", "x", "128x128", [0, 0], [-128, 128], [128], [128.0, 128], {}],
    ids=str,
)
def test_a_block_that_is_no_pair_of_sizes_says_nothing(stated: object) -> None:
    """So the usual blocks are those, as without it."""
    assert block_of((320, 128), (3, 1), stated) == (128, 128)


@pytest.mark.parametrize(
    ("shape", "grid", "stated"),
    [
        ((576, 7168), (7, 56), None),
        ((576, 7168), (5, 56), [64, 128]),
        ((256, 128), (2,), [128, 128]),
        ((4, 256, 128), (2, 1), [128, 128]),
        ((256, 128), (0, 1), [128, 128]),
        ((256, 64), (256, 2), [128, 128]),
        ((256, 128), (), [128, 128]),
    ],
)
def test_scales_that_do_not_fit(
    shape: tuple[int, ...], grid: tuple[int, ...], stated: object
) -> None:
    """The error names the codes, their scales and both shapes."""
    with pytest.raises(BadCheckpoint) as error:
        block_of(shape, grid, stated)
    message = error.value.message
    assert "a.weight" in message
    assert str(list(shape)) in message
    if stated is not None and shape != (256, 128):
        assert "config.json says block" in message


@pytest.mark.parametrize(
    ("tensors", "error", "says"),
    [
        ([info("a", "BF16", 4)], PlanRefused, "cannot dequantize here: no tensor"),
        ([info("a.weight_scale_inv", "F32", 1)], BadCheckpoint, "the weight itself is missing"),
        (
            [*fp8("a", 1, 1), info("b", "F8_E4M3", 1, 1)],
            BadCheckpoint,
            "tensor b: its scales b_scale are missing",
        ),
        ([info("b.weight", "F8_E4M3", 4)], BadCheckpoint, "its shape \\[4\\] is no matrix"),
        (fp8("a", 1, 1, scale="I32"), BadCheckpoint, "its scales a_scale_inv are I32"),
        (
            [info("a.weight", "BF16", 4, 4), info("a.weight_scale", "F32", 4, 1)],
            BadCheckpoint,
            "tensor a.weight: it is BF16",
        ),
        (
            [*fp8("a.weight", 4, 4), info("a.weight_zero_point", "I8", 1)],
            BadCheckpoint,
            "a.weight_zero_point is no part of",
        ),
        (
            [info("a.weight_packed", "I32", 4, 4), info("a.weight_shape", "I64", 2)],
            BadCheckpoint,
            "its scales a.weight_scale are missing",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_dequantized(
    tensors: list[TensorInfo], error: type[streamconv.StreamconvError], says: str
) -> None:
    with pytest.raises(error, match=says):
        cast_checkpoint(stored(*tensors), BF16)


@pytest.mark.parametrize("word", ["pre_quant_scale", "svdquant_lora_a"])
def test_a_weight_that_is_only_a_part_of_the_product(word: str) -> None:
    """ModelOpt's NVFP4_AWQ and NVFP4_SVD: the codes alone are not the weight."""
    nvfp4 = [info("a.weight", "U8", 4, 16), info("a.weight_scale", "F8_E4M3", 4, 2)]
    nvfp4 += [info("a.weight_scale_2", "F32"), info(f"a.{word}", "BF16", 32)]
    with pytest.raises(BadCheckpoint, match=rf"a\.{word} is no part of nvfp4"):
        cast_checkpoint(stored(*nvfp4), BF16)


@pytest.mark.parametrize("location", ["input", "weight_input"])
def test_weights_for_inputs_that_are_transformed(location: str) -> None:
    """Those that compressed-tensors transforms as a model runs, which bf16 would be without."""
    transform = {"type": "hadamard", "apply": [{"targets": ["Linear"], "location": location}]}
    section = {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "transform_config": {"config_groups": {"R4": transform}},
    }
    weights = [info("a.weight", "F8_E4M3", 4, 4), info("a.weight_scale", "F32", 4, 1)]
    checkpoint = stored(*weights, quantization_config=section)
    if location == "input":
        with pytest.raises(PlanRefused, match=r"quantization_config\.transform_config transforms"):
            cast_checkpoint(checkpoint, BF16)
    else:
        assert list(cast_checkpoint(checkpoint, BF16).tensors) == ["a.weight"]

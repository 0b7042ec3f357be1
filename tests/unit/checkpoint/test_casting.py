"""Which tensors are cast, which are protected, and what is refused."""

import json
import math
from typing import Any

import pytest

import streamconv
from streamconv.checkpoint.casting import (
    AS_STORED,
    Casting,
    cast_checkpoint,
    parse_casting,
    protected_kind,
)
from streamconv.checkpoint.types import Checkpoint, TensorInfo
from streamconv.errors import BadCheckpoint, PlanRefused, UsageError
from streamconv.formats.safetensors import DTYPE_BITS

ROUTERS = (
    "model.layers.0.mlp.gate.weight",
    "model.layers.0.mlp.gate.e_score_correction_bias",
    "model.layers.10.block_sparse_moe.gate.weight",
    "model.layers.1.block_sparse_moe.router.layer.weight",
    "model.layers.1.mlp.router.bias",
    "model.layers.1.mlp.shared_expert_gate.weight",
    "model.layers.1.feed_forward.expert_bias",
    "model.layers.1.mlp.moe_statics.e_score_correction_bias",
    "thinker.model.layers.3.mlp.gate.weight",
)
NORMS = (
    "model.norm.weight",
    "model.layers.0.input_layernorm.weight",
    "model.layers.0.self_attn.q_norm.weight",
    "visual.merger.ln_q.weight",
    "visual.blocks.0.norm1.bias",
    "vision_model.encoder.layers.0.layer_norm1.weight",
    "mlp1.0.weight",
)
OTHERS = (
    "model.embed_tokens.weight",
    "lm_head.weight",
    "model.layers.0.mlp.gate_proj.weight",
    "model.layers.0.mlp.experts.11.gate_proj.weight",
    "model.layers.0.mlp.experts.gate_up_proj",
    "model.layers.0.mlp.experts.gate_up_proj_bias",
    "model.layers.0.self_attn.q_proj.bias",
    "mlp1.1.weight",
)


# --- what is cast ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "kind"), [(ROUTERS, "router"), (NORMS, "norm"), (OTHERS, None)], ids=str
)
def test_routers_and_norms_are_told_by_name(names: tuple[str, ...], kind: str | None) -> None:
    """And a projection called gate is no router."""
    assert {name: protected_kind(name) for name in names} == dict.fromkeys(names, kind)


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


def test_a_cast_tensor_has_its_new_size_and_knows_its_old_one() -> None:
    """What is of the dtype already is not cast."""
    checkpoint = stored(info("a", "BF16", 3, 5), info("b", "F32", 7))
    found = cast_checkpoint(checkpoint, Casting("F32")).tensors
    assert (found["a"].nbytes, found["a"].shape) == (60, (3, 5))
    assert found["a"].stored == (checkpoint.tensors["a"],)
    assert found["b"] is checkpoint.tensors["b"]
    assert found["b"].stored == (found["b"],)


@pytest.mark.parametrize("given", ["float32", "BF16", "fp8", ""])
def test_a_dtype_that_there_is_not(given: str) -> None:
    with pytest.raises(UsageError, match="bf16, fp16, fp32"):
        try:
            parse_casting(given, None, False)
        except UsageError as error:
            raise UsageError(f"{error.message} {error.hint}") from None
    with pytest.raises(UsageError, match="no such dtype"):
        parse_casting(None, given, False)


def test_cast_all_without_a_dtype_says_nothing() -> None:
    with pytest.raises(UsageError, match="--cast-all"):
        parse_casting(None, "bf16", True)


# --- what is dequantized -----------------------------------------------------------------------


def block_of(
    shape: tuple[int, ...], grid: tuple[int, ...], stated: object = None
) -> tuple[int, int]:
    quantization = {"quantization_config": {"weight_block_size": stated}} if stated else {}
    checkpoint = stored(
        info("a.weight", "F8_E4M3", *shape),
        info("a.weight_scale_inv", "F32", *grid),
        **quantization,
    )
    found = cast_checkpoint(checkpoint, Casting(dequantize="BF16")).tensors
    assert list(found) == ["a.weight"]
    weight = found["a.weight"]
    assert (weight.dtype, weight.nbytes) == ("BF16", 2 * math.prod(shape))
    assert weight.stored == tuple(checkpoint.tensors.values())
    assert weight.cast is not None
    return weight.cast.block


@pytest.mark.parametrize(
    ("shape", "grid", "stated", "block"),
    [
        ((256, 384), (2, 3), [128, 128], (128, 128)),
        ((576, 7168), (5, 56), [128, 128], (128, 128)),
        ((192, 128), (2, 1), [128, 128], (128, 128)),
        ((192, 128), (2, 1), None, (96, 128)),
        ((256, 64), (256, 2), [128, 128], (1, 32)),
        ((4, 256, 128), (4, 2, 1), None, (128, 128)),
        ((256, 128), (), None, (256, 128)),
        ((256, 128), (1,), [128, 128], (256, 128)),
    ],
)
def test_the_block_is_the_configs_or_the_shapes(
    shape: tuple[int, ...], grid: tuple[int, ...], stated: object, block: tuple[int, int]
) -> None:
    """Only the config shows that a last block is cut short."""
    assert block_of(shape, grid, stated) == block


@pytest.mark.parametrize(
    ("shape", "grid", "stated"),
    [
        ((576, 7168), (5, 56), None),
        ((576, 7168), (5, 56), [64, 128]),
        ((256, 128), (2,), [128, 128]),
        ((4, 256, 128), (2, 1), [128, 128]),
        ((256,), (2,), [128, 128]),
        ((256, 128), (0, 1), [128, 128]),
    ],
)
def test_scales_that_do_not_fit(
    shape: tuple[int, ...], grid: tuple[int, ...], stated: object
) -> None:
    with pytest.raises(
        BadCheckpoint, match=r"a.weight_scale_inv has shape .* does not divide"
    ) as error:
        block_of(shape, grid, stated)
    assert ("config.json says" in error.value.message) == (stated is not None)


@pytest.mark.parametrize(
    ("tensors", "error", "says"),
    [
        ([info("a", "BF16", 4)], PlanRefused, "cannot dequantize here: no tensor"),
        ([info("a.weight_scale_inv", "F32", 1)], BadCheckpoint, "its weight is missing"),
        (
            [info("a", "F8_E4M3", 1, 1), info("a_scale_inv"), info("b", "F8_E4M3", 1, 1)],
            BadCheckpoint,
            "b: it is F8_E4M3, and its scales b_scale_inv are missing",
        ),
        ([info("a", "I8", 1, 1), info("a_scale_inv")], PlanRefused, "a: it is I8, and only"),
        ([info("a", "F8_E4M3", 1, 1), info("a_scale_inv", "I32")], PlanRefused, "it is I32"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_dequantized(
    tensors: list[TensorInfo], error: type[streamconv.StreamconvError], says: str
) -> None:
    with pytest.raises(error, match=says):
        cast_checkpoint(stored(*tensors), Casting(dequantize="BF16"))


# --- what is stored ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "casting", [AS_STORED, Casting("BF16"), Casting("F16", "F32", True), Casting(dequantize="BF16")]
)
def test_a_casting_is_read_as_it_was_written(casting: Casting) -> None:
    fields = json.loads(json.dumps(casting.to_json()))
    assert Casting.from_json(fields, "file") == casting


def test_a_manifest_without_a_casting_has_none() -> None:
    """It is of an earlier release."""
    assert Casting.from_json(None, "file") == AS_STORED


@pytest.mark.parametrize(
    "fields",
    [
        {},
        [],
        "BF16",
        {"dtype": "F64", "dequantize": None, "all": False},
        {"dtype": None, "dequantize": ["BF16"], "all": False},
        {"dtype": None, "dequantize": None, "all": 0},
    ],
    ids=str,
)
def test_another_casting_is_refused(fields: Any) -> None:
    with pytest.raises(BadCheckpoint, match="file: its casting"):
        Casting.from_json(fields, "file")

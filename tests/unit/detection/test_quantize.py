"""A checkpoint as if some of its weights were stored as codes: which, and where."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from header_models import checkpoint_of, experts

from streamconv.catalog.catalog import default_catalog
from streamconv.checkpoint.casting import Casting
from streamconv.checkpoint.types import Checkpoint
from streamconv.detection.detect import Detected, detect
from streamconv.detection.quantize import Quantized, quantize_checkpoint
from streamconv.errors import BadCheckpoint, PlanRefused

MLP = "model.layers.0.mlp."
ATTENTION = "model.layers.0.self_attn.q_proj.weight"
MATRICES = {f"{MLP}experts.{e}.{p}_proj.weight" for e in range(2) for p in ("gate", "up", "down")}


def source(layout: str = "per-expert", columns: int = 64) -> Checkpoint:
    """A layer with two experts, an attention matrix, a router, a norm, and a matrix elsewhere."""
    tensors = {
        **experts(MLP, 2, 32, 64, layout),
        ATTENTION: ("BF16", (64, columns)),
        f"{MLP}gate.weight": ("BF16", (2, 64)),
        "model.layers.0.input_layernorm.weight": ("BF16", (64,)),
        "lm_head.weight": ("BF16", (10, 64)),
    }
    config = {"model_type": "qwen3_moe", "num_experts": 2, "num_hidden_layers": 1}
    return replace(checkpoint_of(tensors), config=config)


def quantized(checkpoint: Checkpoint, name: str = "int4-g32", **chosen: Any) -> Quantized:
    def detected(found: Checkpoint, is_declared: bool = True) -> Detected:
        return detect(found, default_catalog(), "fused" if is_declared and merged else None)

    merged = f"{MLP}experts.gate_up_proj" in checkpoint.tensors
    casting = Casting(quantize=name, **chosen)
    return quantize_checkpoint(checkpoint, detected(checkpoint), casting, detected)


def coded(tensors: Mapping[str, object]) -> set[str]:
    """The weights that are stored as codes, by the names that they had."""
    return {n.removesuffix("_packed") for n in tensors if n.endswith("weight_packed")}


def test_without_the_option_nothing_changes() -> None:
    checkpoint = source()
    found = detect(checkpoint, default_catalog())
    same = quantize_checkpoint(checkpoint, found, Casting(), lambda *_: found)
    assert same == Quantized(checkpoint, found)


def test_experts_and_linear_layers_of_blocks_are_quantized() -> None:
    """Neither routers and norms, nor matrices outside of layers."""
    made = quantized(source())
    assert coded(made.checkpoint.tensors) == {*MATRICES, ATTENTION}
    scale = made.checkpoint.tensors[ATTENTION.replace("weight", "weight_scale")]
    assert scale.shape == (64, 2)
    section = made.checkpoint.config["quantization_config"]
    assert section["quant_method"] == "compressed-tensors"
    assert {"lm_head", "model.layers.0.mlp.gate"} <= {*section["ignore"]}


@pytest.mark.parametrize(
    ("chosen", "wanted"),
    [
        ({"only": ("*.experts.*",)}, MATRICES),
        ({"only": ("lm_head.weight",)}, {"lm_head.weight"}),
        ({"skip": ("*.experts.*",)}, {ATTENTION}),
        ({"only": ("*_proj.weight",), "skip": ("*.self_attn.*",)}, MATRICES),
    ],
)
def test_weights_are_chosen_by_name(chosen: dict[str, Any], wanted: set[str]) -> None:
    assert coded(quantized(source(), **chosen).checkpoint.tensors) == wanted


def test_merged_experts_are_seen_one_by_one() -> None:
    made = quantized(source("fused"))
    assert coded(made.checkpoint.tensors) == {*MATRICES, ATTENTION}
    assert made.separated == ("model.layers.*.mlp.",)
    assert [stack.row.layout.name for stack in made.found.stacks] == ["per-expert"]
    untouched = quantized(source("fused"), skip=("*.experts.*",))
    assert untouched.separated == ()
    assert f"{MLP}experts.gate_up_proj" in untouched.checkpoint.tensors


def test_a_matrix_that_does_not_fit_stays_and_is_named() -> None:
    made = quantized(source(columns=48))
    assert made.left_out == {ATTENTION: "it has 48 columns, and int4-g32 has groups of 32"}
    assert ATTENTION in made.checkpoint.tensors


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"only": ("*.nothing.*",)}, "cannot apply --only .*no matrix has that name"),
        ({"skip": ("*.nothing.*",)}, "cannot apply --except .*no matrix has that name"),
        ({"skip": ("*",)}, "--only and --except leave none of its 7 weights"),
    ],
)
def test_a_choice_that_fits_nothing(chosen: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanRefused, match=said):
        quantized(source(), **chosen)


def test_an_expert_that_does_not_fit_is_refused() -> None:
    """With only some of a layer's experts in a format, no reader would load the layer."""
    tensors = experts(MLP, 2, 32, 48)
    with pytest.raises(PlanRefused, match="columns, and int4-g32 has groups of 32"):
        quantized(checkpoint_of(tensors))


def test_what_is_quantized_already() -> None:
    checkpoint = quantized(source()).checkpoint
    with pytest.raises(
        PlanRefused, match=r"7 of its weights are quantized already, such as .*int4"
    ):
        quantized(checkpoint)


def test_a_name_that_is_taken() -> None:
    tensors = source().tensors
    scale = ATTENTION.replace("weight", "weight_shape")
    taken = tensors[ATTENTION]._replace(name=scale)
    with pytest.raises(BadCheckpoint, match=f"it would get a {scale}, and there is a tensor"):
        quantized(replace(source(), tensors={**tensors, scale: taken}))

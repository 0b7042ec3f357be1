"""What a checkpoint is apart from its family."""

from dataclasses import replace
from typing import Any

import pytest
from header_models import checkpoint_of, experts

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.checkpoint_kinds import checkpoint_kinds
from streamconv.checkpoint.types import Checkpoint, OtherFile
from streamconv.detection.detect import detect
from streamconv.detection.kinds import check_kind, count_notes, format_notes, kinds_of
from streamconv.errors import PlanRefused

PLAIN = ("BF16", (2, 2))
EXPERTS = experts("model.layers.0.mlp.", 2, 3, 5)


def made(name: str = "a.weight", file: str = "", **config: Any) -> Checkpoint:
    checkpoint = checkpoint_of({name: PLAIN, "b.weight": PLAIN})
    others = (OtherFile(file, 3),) if file else ()
    return replace(checkpoint, config=config, others=others)


@pytest.mark.parametrize(
    ("checkpoint", "kind"),
    [
        (made("base_model.model.a.lora_A.weight"), "lora"),
        (made(file="adapter_config.json"), "lora"),
        (made("decoder.layers.0.self_attention.linear_qkv.weight"), "megatron"),
        (made("model.layers.0.mlp.switch_mlp.gate_proj.weight"), "mlx"),
        (made(quantization={"group_size": 64, "bits": 4}), "mlx"),
        (made(file="quant_model_description.json"), "modelslim"),
        (made("tok_embeddings.weight", file="params.json"), "mistral-native"),
        (made(file="hf_quant_config.json"), "modelopt"),
        (made("midlayer.mlp.up_proj.weight"), "eagle"),
        (made("d2t"), "eagle"),
        (made(architectures=["LlamaForCausalLMEagle3"]), "eagle"),
        (made(architectures=["Qwen3MTPModel"]), "draft"),
        (made("model._orig_mod.a.weight"), "distributed-wrappers"),
    ],
)
def test_signs(checkpoint: Checkpoint, kind: str) -> None:
    """Names, files, config.json and architectures: any of them tells."""
    assert [found.name for found in kinds_of(checkpoint)] == [kind]


@pytest.mark.parametrize("architectures", [None, "x", 3, [3, None], ["Qwen3MoeForCausalLM"]])
def test_none_of_them(architectures: object) -> None:
    """The vision tower of Qwen3-VL has names of Megatron's, too."""
    name = "model.visual.blocks.0.mlp.linear_fc1.weight"
    assert kinds_of(made(name, architectures=architectures)) == ()


def test_only_some_kinds_are_refused() -> None:
    for kind in checkpoint_kinds():
        assert kind.says
        assert kind.files or kind.parts or kind.names or kind.config or kind.architectures
    check_kind(made("tok_embeddings.weight"))
    with pytest.raises(PlanRefused, match="it is an adapter") as caught:
        check_kind(made(file="adapter_config.json"))
    assert caught.value.hint.startswith("merge it into its base model first")


def test_number_formats() -> None:
    """What is quantized, to what, and what config.json says of it."""
    tensors = {
        "a.weight": ("F8_E4M3", (128, 128)),
        "a.weight_scale_inv": ("F32", (1, 1)),
        "b.weight": ("BF16", (2, 2)),
    }
    says = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    checkpoint = replace(checkpoint_of(tensors), config={"quantization_config": says})
    weights, config = format_notes(checkpoint)
    assert (
        weights
        == "quantized: FP8 with a scale for each tensor, other weights than experts; 1 weight, "
        "a.weight (1)"
    )
    assert "quantization_config says method fp8" in config
    assert list(format_notes(made())) == []


def test_the_file_that_says_a_format_is_named() -> None:
    """Not config.json, if that says nothing."""
    tensors = {"a.weight": ("F8_E4M3", (128, 128)), "a.weight_scale": ("F32", ())}
    said = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}
    _, note = format_notes(replace(checkpoint_of(tensors), config={}, quant_config=said))
    assert note.startswith("hf_quant_config.json says algo FP8")


def test_formats_that_contradict_each_other_are_shown() -> None:
    tensors = {"a.weight": ("F8_E4M3", (128, 128)), "a.weight_scale": ("F32", (3, 5))}
    (note,) = format_notes(replace(checkpoint_of(tensors), config={}))
    assert note.startswith("quantized, and inconsistent: ")


def test_experts_that_are_counted_and_not_found() -> None:
    dense = replace(checkpoint_of({"a.weight": PLAIN}), config={"text_config": {"num_experts": 8}})
    (note,) = count_notes(dense, detect(dense, default_catalog()))
    assert note == "config.json says text_config.num_experts = 8, and no experts were found"
    found = checkpoint_of(EXPERTS)
    assert list(count_notes(found, detect(found, default_catalog()))) == []

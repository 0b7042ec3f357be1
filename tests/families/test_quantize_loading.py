"""What transformers loads of a quantized result on a CPU: values and logits are compared.

On a CPU it dequantizes FP8 blocks as it loads them. Of compressed-tensors it decompresses the
experts, and linear layers when they are used.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import quantizers
import reference
import torch
import transformers
from safetensors.torch import save_file
from small_qwen import save_small_qwen
from transformers import AutoModelForCausalLM, Llama4ForCausalLM, Llama4TextConfig
from transformers.models.auto.configuration_auto import model_type_to_module_name
from transformers.quantizers.base import MODULES_TO_PATCH_FOR_QUANTIZATION

import streamconv
from streamconv.catalog.catalog import default_catalog
from streamconv.report.outcome import loading_line

MODELS = Path(transformers.models.__file__).parent


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_qwen(tmp_path_factory.mktemp("plain"), layers=2)


def logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    with torch.no_grad():
        return model(torch.arange(20)[None]).logits


@pytest.mark.parametrize("kind", quantizers.QUANTIZERS)
def test_the_logits_of_what_it_stands_for(kind: str, plain: Path, tmp_path: Path) -> None:
    """Those of a model with the values that another library quantized and dequantized."""
    name, _, scale = kind.partition(" ")
    out, meant = tmp_path / "out", tmp_path / "meant"
    streamconv.convert(plain, out, to="per-expert", quantize=name, scale=scale or None)
    tensors = reference.read(plain)
    for weight in (weight for weight in tensors if "_proj" in weight):
        parts = quantizers.QUANTIZERS[kind](tensors[weight])
        tensors[weight] = quantizers.decoded(kind, parts).bfloat16()
    meant.mkdir()
    save_file(tensors, meant / "model.safetensors", {"format": "pt"})
    (meant / "config.json").write_text((plain / "config.json").read_text())
    if kind == "fp8-channel":
        # activations are rounded to FP8, too; without that, the values of the weights are left
        config = json.loads((out / "config.json").read_text())
        for group in config["quantization_config"]["config_groups"].values():
            assert group.pop("input_activations")["dynamic"]
        (out / "config.json").write_text(json.dumps(config))
    assert logits(out).equal(logits(meant))


def test_plain_experts_next_to_packed_weights(plain: Path, tmp_path: Path) -> None:
    """transformers expects packed ones, unless they are merged; notes say so."""
    single, merged = tmp_path / "single", tmp_path / "merged"
    options: dict[str, Any] = {"quantize": "int4-g32", "only": "*self_attn*"}
    (note,) = streamconv.convert(plain, single, to="per-expert", **options).plan.config.notes
    assert "model.layers.*.mlp.experts are not quantized, and other weights are packed" in note
    with pytest.raises(RuntimeError, match="conversion"):
        logits(single)
    assert streamconv.convert(plain, merged, to="transformers", **options).plan.config.notes == ()
    meant = tmp_path / "meant"
    streamconv.convert(merged, meant, dequantize="bf16")
    assert logits(merged).equal(logits(meant))


@pytest.mark.parametrize(
    ("kind", "skipped", "says"),
    [
        ("fp8-channel", "*.experts.3.*", "some experts of"),
        ("mxfp4", "*.experts.*.down_proj.*", "some projections of"),
        ("fp8-channel", "*.experts.*.down_proj.*", ""),
    ],
)
def test_experts_that_are_quantized_in_part(
    kind: str, skipped: str, says: str, plain: Path, tmp_path: Path
) -> None:
    """What has a note loads to other values; what has none loads to the same."""
    out, meant = tmp_path / "out", tmp_path / "meant"
    options: dict[str, Any] = {"quantize": kind, "only": "*.experts.*", "skip": skipped}
    notes = streamconv.convert(plain, out, to="same", **options).plan.config.notes
    assert [note.startswith(says) for note in notes] == [True] * bool(says)
    streamconv.convert(out, meant, to="same", dequantize="bf16")
    assert logits(out).equal(logits(meant)) != bool(says)


def test_the_model_types_whose_experts_are_single_once_quantized() -> None:
    """Those for which transformers replaces the module of merged experts, and by which methods."""
    found: dict[str, tuple[str, ...]] = {}
    for family in default_catalog().families.values():
        for model_type in family.model_types:
            module = model_type_to_module_name(model_type)
            code = MODELS / module / f"modeling_{module}.py"
            for name, row in MODULES_TO_PATCH_FOR_QUANTIZATION.items():
                if code.exists() and f"class {name}(" in code.read_text():
                    found[model_type] = tuple(each.value for each in row["quantization_methods"])
    assert found == {
        model_type: family.single_experts
        for family in default_catalog().families.values()
        for model_type in family.model_types
        if family.single_experts
    }


def test_quantized_experts_of_llama4(tmp_path: Path) -> None:
    """Single ones load if compressed-tensors has them, though plain ones are merged."""
    sizes = {"hidden_size": 64, "intermediate_size": 32, "intermediate_size_mlp": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32}
    config = Llama4TextConfig(
        **sizes, **heads, num_hidden_layers=1, num_local_experts=3, vocab_size=64
    )
    model = Llama4ForCausalLM(config).bfloat16()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    plain, out, meant = tmp_path / "plain", tmp_path / "out", tmp_path / "meant"
    model.save_pretrained(plain)
    options: dict[str, Any] = {"to": "per-expert", "source_layout": "fused-transposed"}
    plan = streamconv.convert(plain, out, quantize="mxfp4", **options).plan
    assert plan.target.warnings == ()
    assert loading_line(plan, "o") == "see if transformers loads it: `streamconv check o`"
    streamconv.convert(out, meant, to="transformers", dequantize="bf16")
    assert logits(out).equal(logits(meant))
    (warning,) = streamconv.plan(plain, quantize="fp8-block", **options).target.warnings
    assert "of this model type merged only" in warning
    kept = streamconv.plan(out, to="same", copy=True)
    assert kept.target.may_load
    with pytest.raises(streamconv.PlanRefused, match="one by one only"):
        streamconv.plan(out, to="transformers")

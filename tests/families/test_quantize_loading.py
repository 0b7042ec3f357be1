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
from safetensors.torch import save_file
from small_qwen import save_small_qwen
from transformers import AutoModelForCausalLM

import streamconv


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

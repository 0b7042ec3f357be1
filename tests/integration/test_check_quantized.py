"""`check` of weights that compressed-tensors quantized: what loading finds, what it cannot show.

The oracle is transformers' own `from_pretrained`, which reads the weights and converts them.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from quantized import mxfp4_blocks
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

import streamconv
from streamconv.errors import PlanRefused
from streamconv.verification import config_values

EIGHT_BITS = {"num_bits": 8, "type": "float", "symmetric": True}
QUANTIZED = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head", "re:.*gate$"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {**EIGHT_BITS, "strategy": "channel", "dynamic": False},
            "input_activations": {**EIGHT_BITS, "strategy": "token", "dynamic": True},
        }
    },
}

pytest.importorskip("compressed_tensors")


@pytest.fixture
def quantized(tmp_path: Path) -> Path:
    """A small model whose linear layers are FP8 with a scale for each output."""
    config = Qwen3MoeConfig(
        hidden_size=64,
        intermediate_size=64,
        moe_intermediate_size=32,
        num_hidden_layers=1,
        num_experts=2,
        num_experts_per_tok=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        vocab_size=64,
    )
    Qwen3MoeForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "model")
    stored = {}
    for name, weight in load_file(tmp_path / "model" / "model.safetensors").items():
        if name.endswith("proj.weight"):
            stored[name] = weight.to(torch.float8_e4m3fn)
            stored[f"{name}_scale"] = torch.ones(weight.shape[0], 1)
        else:
            stored[name] = weight
    rewrite(tmp_path / "model", stored)
    configure(tmp_path / "model", quantization_config=QUANTIZED)
    return tmp_path / "model"


def rewrite(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def configure(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def loaded(folder: Path) -> dict[str, Any]:
    """What transformers says of a real load."""
    _, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert isinstance(info, dict)
    return info


def test_a_sound_one(quantized: Path, capfd: pytest.CaptureFixture[str]) -> None:
    info = loaded(quantized)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    capfd.readouterr()
    found = streamconv.check(quantized)
    assert found.is_clean
    assert "compressed-tensors load to" in found.not_shown
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("change", ["a tensor too many", "a tensor too few"])
def test_one_that_is_not_sound(change: str, quantized: Path) -> None:
    """The same keys as a real load finds."""
    tensors = load_file(quantized / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    if change.endswith("many"):
        tensors["model.layers.0.nothing.weight"] = tensors[name].clone()
    else:
        del tensors["model.norm.weight"]
    rewrite(quantized, tensors)
    info, found = loaded(quantized), streamconv.check(quantized)
    assert {*found.missing} == {*info["missing_keys"]}
    assert {*found.unexpected} == {*info["unexpected_keys"]}
    assert not found.is_clean


def test_a_torch_with_an_accelerator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict is that of a host without one: no kernels are asked for, though it names one."""
    experts, hidden, inner = 2, 96, 32
    config = GptOssConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_local_experts=experts,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        vocab_size=64,
    )
    folder = tmp_path / "model"
    GptOssForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    stem = "model.layers.0.mlp.experts."
    for name, out, into in (("gate_up_proj", 2 * inner, hidden), ("down_proj", hidden, inner)):
        del stored[stem + name]
        case = mxfp4_blocks(experts, out, into)
        stored |= {f"{stem}{name}{end}": tensor for end, tensor in case.tensors.items()}
    rewrite(folder, stored)
    configure(folder, quantization_config={"quant_method": "mxfp4"})
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert streamconv.check(folder).is_clean
    assert torch.cuda.is_available()


def test_a_missing_package_is_named(quantized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_values, "find_spec", lambda _: None)
    with pytest.raises(PlanRefused, match="package compressed-tensors is not installed") as caught:
        streamconv.check(quantized)
    assert caught.value.hint == "run `pip install compressed-tensors`"


def test_a_package_that_cannot_be_imported_is_named(
    quantized: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_values, "find_spec", lambda _: True)
    monkeypatch.setitem(sys.modules, "compressed_tensors.compressors", None)
    with pytest.raises(PlanRefused, match="package compressed-tensors cannot be imported"):
        streamconv.check(quantized)


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({}, None),
        ({"quantization_config": QUANTIZED}, "compressed-tensors"),
        ({"text_config": {"quantization_config": QUANTIZED}}, "compressed-tensors"),
        ({"llm_config": {"quantization_config": QUANTIZED}}, "compressed-tensors"),
        ({"quantization_config": {"load_in_4bit": True}}, "bitsandbytes_4bit"),
        ({"quantization_config": 3}, None),
        ({"text_config": 3}, None),
    ],
)
def test_where_a_method_is_named(config: dict[str, Any], method: str | None) -> None:
    """For the whole model, or for its language model."""
    assert config_values.quantization_method(config) == method

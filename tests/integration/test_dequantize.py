"""Whole conversions of checkpoints in every number format, and the choice of their weights."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import quantized
import reference
import torch
from quantized import Case
from safetensors.torch import save_file

import streamconv

E = 11
"""More than ten experts, so that the order of text is not that of numbers."""
SIZES = {"gate_proj": (32, 64), "up_proj": (32, 64), "down_proj": (64, 32)}
ODD = {"gate_proj": (29, 61), "up_proj": (29, 61), "down_proj": (61, 29)}
MLP = "model.layers.{}.mlp."

MAKERS: dict[str, Callable[[int, int], Case]] = {
    "fp8 blocks": quantized.fp8_block,
    "fp8 blocks of compressed-tensors": lambda o, i: quantized.fp8_block(o, i, ".weight_scale"),
    "fp8 channels": quantized.fp8_channel,
    "fp8 tensor": quantized.fp8_tensor,
    "mxfp8": quantized.mxfp8,
    "int4": quantized.packed_int,
    "int4, zero points": lambda o, i: quantized.packed_int(o, i, symmetric=False),
    "int4, odd last group": lambda o, i: quantized.packed_int(o, i, group=16),
    "int8 packed": lambda o, i: quantized.packed_int(o, i, bits=8),
    "int8": quantized.int8,
    "gptq": quantized.gptq,
    "gptq, in another order": lambda o, i: quantized.gptq(o, i, ordered=False),
    "awq": quantized.awq,
    "mxfp4 of deepseek-v4": quantized.mxfp4_bytes,
    "mxfp4 of compressed-tensors": quantized.mxfp4_packed,
    "nvfp4 of modelopt": quantized.nvfp4,
    "nvfp4 of compressed-tensors": quantized.nvfp4_packed,
}


def write(folder: Path, tensors: reference.Tensors, config: Mapping[str, Any]) -> Path:
    """A checkpoint whose scales are in another file than their weights."""
    folder.mkdir()
    weights = {n: t.contiguous() for n, t in tensors.items() if "scale" not in n}
    rest = {n: t.contiguous() for n, t in tensors.items() if n not in weights}
    save_file(weights, folder / "a.safetensors")
    save_file(rest, folder / "b.safetensors")
    fields = {"model_type": "qwen3_moe", "num_experts": E, **config}
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def experts_of(kind: str) -> tuple[reference.Tensors, Any, Any]:
    """Quantized experts of two layers next to dense weights: stored, config, decoded."""
    torch.manual_seed(5)
    stored: reference.Tensors = {"model.norm.weight": torch.rand(8).bfloat16()}
    plain = dict(stored)
    config: dict[str, Any] = {}
    for layer in range(2):
        for number in range(E):
            for name, shape in (ODD if "odd" in kind else SIZES).items():
                case = MAKERS[kind](*shape)
                stem = f"{MLP.format(layer)}experts.{number}.{name}"
                stored |= {f"{stem}{end}": tensor for end, tensor in case.tensors.items()}
                plain[f"{stem}.weight"] = case.decoded(torch.bfloat16)
                config = case.config
    return stored, config, plain


@pytest.mark.parametrize("kind", MAKERS)
def test_dequantized_as_it_is_fused(kind: str, tmp_path: Path) -> None:
    """In the same pass, verified by the second computation, and equal to torch and libraries."""
    stored, config, plain = experts_of(kind)
    source = write(tmp_path / "source", stored, config)
    streamconv.merge(source, tmp_path / "out", dequantize="bf16", verify=True)
    assert (
        reference.same_bytes(reference.read(tmp_path / "out"), reference.to_layout(plain, "fused"))
        == []
    )


@pytest.mark.parametrize("layout", ["fused-transposed", "per-expert", "stacked"])
@pytest.mark.parametrize("kind", ["int4, odd last group", "awq", "nvfp4 of modelopt"])
def test_dequantized_in_any_layout(kind: str, layout: str, tmp_path: Path) -> None:
    stored, config, plain = experts_of(kind)
    source = write(tmp_path / "source", stored, config)
    streamconv.convert(source, tmp_path / "out", to=layout, dequantize="bf16", verify=True)
    wanted = reference.to_layout(plain, layout)
    assert reference.same_bytes(reference.read(tmp_path / "out"), wanted) == []


def test_several_formats_in_one_model(tmp_path: Path) -> None:
    """Experts in int4, attention in FP8, and a layer of MTP in blocks of FP8."""
    stored, config, plain = experts_of("int4")
    group = config["quantization_config"]["config_groups"]
    torch.manual_seed(6)
    other = quantized.fp8_channel(24, 48)
    group["group_1"] = {
        **other.config["quantization_config"]["config_groups"]["group_0"],
        "format": "float-quantized",
    }
    group["group_0"]["format"] = "pack-quantized"
    config["quantization_config"]["format"] = "mixed-precision"
    attention = "model.layers.0.self_attn.q_proj"
    stored |= {f"{attention}{end}": tensor for end, tensor in other.tensors.items()}
    plain[f"{attention}.weight"] = other.decoded(torch.bfloat16)
    source = write(tmp_path / "source", stored, config)
    streamconv.merge(source, tmp_path / "out", dequantize="bf16", verify=True)
    found = reference.read(tmp_path / "out")
    assert reference.same_bytes(found, reference.to_layout(plain, "fused")) == []


@pytest.mark.parametrize(
    "chosen", [{"only": "*.experts.*"}, {"only": ["int4"]}, {"skip": ["*.self_attn.*"]}], ids=str
)
def test_experts_alone(chosen: dict[str, Any], tmp_path: Path) -> None:
    """By name and by format; all else keeps its scales. `verify` knows what was chosen."""
    stored, config, plain = experts_of("int4")
    case = quantized.fp8_channel(24, 48)
    group = case.config["quantization_config"]["config_groups"]["group_0"]
    config["quantization_config"]["config_groups"]["group_1"] = {
        **group,
        "format": "float-quantized",
    }
    kept = {f"model.layers.0.self_attn.q_proj{n}": t for n, t in case.tensors.items()}
    source = write(tmp_path / "source", {**stored, **kept}, config)
    streamconv.merge(source, tmp_path / "out", dequantize="bf16", verify=True, **chosen)
    wanted = {**reference.to_layout(plain, "fused"), **kept}
    assert reference.same_bytes(reference.read(tmp_path / "out"), wanted) == []
    assert streamconv.verify(source, tmp_path / "out").ok


@pytest.mark.parametrize("cast", [{"dequantize": "bf16"}, {"quantize": "int4-g32"}], ids=str)
@pytest.mark.parametrize(
    "chosen",
    [{"only": "*.gate_proj*"}, {"skip": "*.down_proj*"}, {"only": "*.experts.1.*"}],
    ids=str,
)
def test_a_choice_that_divides_experts_is_refused(
    cast: dict[str, str], chosen: dict[str, str], tmp_path: Path
) -> None:
    """By what was asked for, not as a defect of the source; their layout can be left."""
    stored, config, plain = experts_of("int4")
    if "quantize" in cast:
        stored, config = plain, {"model_type": "qwen3_moe"}
    source = write(tmp_path / "source", stored, config)
    with pytest.raises(streamconv.PlanRefused, match="not others") as error:
        streamconv.plan(source, to="fused", **cast, **chosen)
    assert all(text in error.value.message for text in chosen.values())
    assert "_packed" not in error.value.message
    assert streamconv.plan(source, to="fused", pass_through=True, **cast, **chosen).steps


def test_a_choice_that_means_nothing_is_refused(tmp_path: Path) -> None:
    stored, config, _ = experts_of("int4")
    source = write(tmp_path / "source", stored, config)
    with pytest.raises(streamconv.PlanRefused, match="--only mxfp4: no quantized weight") as error:
        streamconv.plan(source, dequantize="bf16", only="mxfp4")
    assert "int4" in error.value.message
    with pytest.raises(streamconv.PlanRefused, match="leave none"):
        streamconv.plan(source, dequantize="bf16", skip="*.experts.*")
    with pytest.raises(streamconv.UsageError, match="--only"):
        streamconv.plan(source, only="int4")


def test_gpt_oss_becomes_its_form_in_bf16(tmp_path: Path) -> None:
    """Blocks and scales are turned as transformers turns them; biases stay."""
    torch.manual_seed(2)
    gate_up, down = quantized.mxfp4_blocks(E, 64, 96), quantized.mxfp4_blocks(E, 96, 32)
    stored: reference.Tensors = {"model.norm.weight": torch.rand(64).bfloat16()}
    plain: reference.Tensors = dict(stored)
    for layer in range(2):
        stem = f"{MLP.format(layer)}experts."
        for name, case, width in (("gate_up_proj", gate_up, 64), ("down_proj", down, 96)):
            stored |= {f"{stem}{name}{end}": tensor.clone() for end, tensor in case.tensors.items()}
            stored[f"{stem}{name}_bias"] = torch.rand(E, width).bfloat16()
            plain[f"{stem}{name}"] = case.decoded(torch.bfloat16)
            plain[f"{stem}{name}_bias"] = stored[f"{stem}{name}_bias"]
    config = {**gate_up.config, "model_type": "gpt_oss", "num_local_experts": E}
    source = write(tmp_path / "source", stored, config)
    streamconv.convert(source, tmp_path / "out", to="transformers", dequantize="bf16", verify=True)
    found = reference.read(tmp_path / "out")
    assert reference.same_bytes(found, plain) == []
    streamconv.convert(source, tmp_path / "split", to="per-expert", dequantize="bf16", verify=True)
    split = reference.read(tmp_path / "split")
    gates = plain[f"{MLP.format(1)}experts.gate_up_proj"][7]
    assert split[f"{MLP.format(1)}experts.7.up_proj.weight"].equal(gates[:, 1::2].t())

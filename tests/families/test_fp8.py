"""Block-scaled FP8, compared with what transformers loads from the same checkpoint."""

import json
from pathlib import Path
from typing import Any

import family_models
import pytest
import reference
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, FineGrainedFP8Config
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig
from transformers.quantizers.auto import AutoHfQuantizer

import streamconv

BLOCK = 4
MODEL_TYPES = ["qwen3_moe", "deepseek_v3", "minimax_m2"]
SPARED = ("embed", "lm_head", "norm", "gate.weight", "router")


@pytest.fixture(scope="module", params=MODEL_TYPES)
def fp8(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model as published in FP8: random codes, a scale for each block of 4 by 4."""
    folder = tmp_path_factory.mktemp(request.param)
    family_models.build(request.param).save_pretrained(folder)
    torch.manual_seed(4)
    tensors: reference.Tensors = {}
    for name, tensor in reference.read(folder).items():
        # transformers narrows what is float32 here, which then gives the same bits back.
        tensors[name] = tensor.to(torch.bfloat16).to(tensor.dtype)
        if tensor.ndim == 2 and not any(part in name for part in SPARED):
            tensors[name] = torch.randn(tensor.shape).mul(100).to(torch.float8_e4m3fn)
            grid = [extent // BLOCK for extent in tensor.shape]
            tensors[f"{name}_scale_inv"] = torch.rand(grid) / 1000
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_dequantized_as_transformers_does(fp8: Path, tmp_path: Path) -> None:
    """Loaded with `FineGrainedFP8Config(dequantize=True)`: every tensor, name by name."""
    quantization = FineGrainedFP8Config(dequantize=True, weight_block_size=(BLOCK, BLOCK))
    model, info = AutoModelForCausalLM.from_pretrained(
        fp8, dtype=torch.bfloat16, quantization_config=quantization, output_loading_info=True
    )
    assert not any(info.values()), info
    streamconv.convert(fp8, tmp_path / "out", to="transformers", dequantize="bf16")
    out = reference.read(tmp_path / "out")
    held = {name: tensor.to(out[name].dtype) for name, tensor in model.state_dict().items()}
    assert reference.same_bytes(held, out) == []


def test_scales_are_merged_as_transformers_holds_them(fp8: Path, tmp_path: Path) -> None:
    """FP8 kept: the codes, and the scales of gate and up in one grid, under its own names.

    That is what it has in memory with a GPU. It is a layout and not its form: without a GPU it
    does not load such files.
    """
    streamconv.convert(fp8, tmp_path / "out", to="fused")
    stored = reference.read(tmp_path / "out")
    out = {name.replace(".block_sparse_moe.", ".mlp."): t for name, t in stored.items()}
    assert any(name.endswith("experts.gate_up_proj_scale_inv") for name in out)
    held = {name: tensor.to(out[name].dtype) for name, tensor in quantized_state(fp8).items()}
    assert reference.same_bytes(held, out) == []
    streamconv.convert(tmp_path / "out", tmp_path / "back", to="hub")
    assert reference.same_bytes(reference.read(fp8), reference.read(tmp_path / "back")) == []


def quantized_state(folder: Path) -> dict[str, torch.Tensor]:
    """What transformers' own loader makes of the files in a model of FP8 modules. `from_pretrained`
    would dequantize here, where there is no GPU to compute in FP8."""
    config = AutoConfig.from_pretrained(folder)
    quantization = AutoHfQuantizer.merge_quantization_configs(config.quantization_config, None)
    quantizer: Any = AutoHfQuantizer.from_config(quantization, pre_quantized=True)
    config.quantization_config = quantizer.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        quantizer.preprocess_model(model=model, dtype=torch.bfloat16, device_map={"": "cpu"})
    found, _ = convert_and_load_state_dict_in_model(
        model=model,
        state_dict=reference.read(folder),
        load_config=LoadStateDictConfig(
            device_map={"": "cpu"},
            hf_quantizer=quantizer,
            weight_mapping=get_model_conversion_mapping(model, None, quantizer),
        ),
        disk_offload_index=None,
    )
    assert not (found.missing_keys or found.unexpected_keys or found.mismatched_keys), found
    return dict(model.state_dict())

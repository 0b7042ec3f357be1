"""Models of transformers with the parts that a conversion makes untrue in config.json."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import family_models
import reference
import torch
import transformers
from quantized import Case
from safetensors.torch import save_file

BLOCK = 4
KEPT = ("embed", "lm_head", "norm", "gate.weight", "router")
"""Parts of the names of tensors that are not quantized."""
TOKENS = torch.arange(3, 15).unsqueeze(0)


def published(folder: Path, model_type: str = "qwen3_moe") -> Path:
    """A model in bfloat16, as transformers saves it."""
    if model_type == "qwen3":
        torch.manual_seed(5)
        config = transformers.Qwen3Config(**{**family_models.SMALL, "num_hidden_layers": 3})
        model = transformers.Qwen3ForCausalLM(config)
    else:
        model = family_models.build(model_type)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def quantize(folder: Path, target: Path, section: str = "") -> Path:
    """Write a checkpoint in FP8; returns a folder with the same model, not quantized.

    Args:
        folder: What `published` has written.
        target: The folder for the quantized checkpoint.
        section: The section of config.json that describes the quantization.
    """
    generator = torch.Generator().manual_seed(6)
    stored, plain = {}, {}
    for name, tensor in reference.read(folder).items():
        stored[name] = plain[name] = tensor
        if tensor.ndim != 2 or any(part in name for part in KEPT):
            continue
        codes = torch.randn(tensor.shape, generator=generator).mul(100).to(torch.float8_e4m3fn)
        scales = torch.rand([-(-n // BLOCK) for n in tensor.shape], generator=generator) / 1000
        rows, columns = tensor.shape
        wide = scales.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[:rows, :columns]
        stored[name], stored[f"{name}_scale_inv"] = codes, scales
        plain[name] = (codes.float() * wide).to(torch.bfloat16)
    text = (folder / "config.json").read_text()
    config = json.loads(text)
    fields = config[section] if section else config
    fields["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]}
    reference_folder = target.with_name(f"{target.name}-plain")
    for where, tensors in ((target, stored), (reference_folder, plain)):
        where.mkdir()
        save_file(tensors, where / "model.safetensors", {"format": "pt"})
        (where / "config.json").write_text(text)
    (target / "config.json").write_text(json.dumps(config, indent=2))
    (target / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')
    return reference_folder


def quantize_by(make: Callable[[int, int], Case], folder: Path, target: Path) -> Path:
    """Write a checkpoint whose matrices are those of a number format, and return a plain one.

    Args:
        make: Makes a matrix with so many rows and columns.
        folder: What `published` has written.
        target: The folder for the quantized checkpoint.
    """
    torch.manual_seed(7)
    stored, plain, config = {}, {}, json.loads((folder / "config.json").read_text())
    for name, tensor in reference.read(folder).items():
        stored[name] = plain[name] = tensor
        if tensor.ndim == 2 and not any(part in name for part in KEPT):
            case, stem = make(*tensor.shape), name.removesuffix(".weight")
            del stored[name]
            stored |= {f"{stem}{suffix}": t.contiguous() for suffix, t in case.tensors.items()}
            plain[name] = case.decoded(torch.bfloat16).contiguous()
    reference_folder = target.with_name(f"{target.name}-plain")
    for where, tensors, said in ((target, stored, case.config), (reference_folder, plain, {})):
        where.mkdir()
        save_file(tensors, where / "model.safetensors", {"format": "pt"})
        (where / "config.json").write_text(json.dumps({**config, **said}))
    return reference_folder


def loaded(folder: Path) -> tuple[torch.Tensor, torch.dtype]:
    """The logits of the model as transformers loads it by its config, and its dtype.

    Nothing may be missing or left over.
    """
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, experts_implementation="eager"
    )
    assert not any(info.values()), info
    with torch.no_grad():
        logits = model.eval()(TOKENS).logits
    assert logits.isfinite().all()
    return logits, model.dtype


def config_of(folder: Path) -> dict[str, Any]:
    """The content of config.json."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config

"""A small model in BF16 to quantize, whose sizes are no whole blocks."""

import json
from pathlib import Path
from typing import Any

import reference
import torch
from safetensors.torch import save_file

E, H, I = 5, 160, 96  # noqa: E741 - the sizes as everywhere
CONFIG = {"model_type": "unknown_moe", "num_experts": E, "num_hidden_layers": 2}


def plain_tensors(dtype: torch.dtype = torch.bfloat16) -> reference.Tensors:
    """Two layers with attention, a router and experts."""
    torch.manual_seed(7)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (32, H),
        "lm_head.weight": (32, H),
        "model.norm.weight": (H,),
    }
    for layer in (f"model.layers.{number}." for number in range(2)):
        shapes |= {f"{layer}self_attn.{n}_proj.weight": (H, H) for n in "qkvo"}
        shapes |= {f"{layer}self_attn.q_norm.weight": (32,), f"{layer}mlp.gate.weight": (E, H)}
        for expert in (f"{layer}mlp.experts.{number}." for number in range(E)):
            shapes |= {f"{expert}{n}_proj.weight": (I, H) for n in ("gate", "up")}
            shapes[f"{expert}down_proj.weight"] = (H, I)
    return {name: (torch.randn(shape) * 0.05).to(dtype) for name, shape in shapes.items()}


def write(folder: Path, tensors: reference.Tensors, **config: Any) -> Path:
    """Write a checkpoint with these tensors."""
    folder.mkdir()
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}, indent=2))
    return folder

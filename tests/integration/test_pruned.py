"""Pruned models, whose layers have different numbers of experts, are converted layer by layer."""

import json
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from folders import forget
from safetensors.torch import save_file

import streamconv

INTER, HIDDEN = 4, 6
COUNTS = (8, 6, 8, 7)
QWEN = {"model_type": "qwen3_moe", "num_experts": 8}


def pruned() -> reference.Tensors:
    draw = torch.Generator().manual_seed(1)
    shapes: dict[str, tuple[int, ...]] = {"model.norm.weight": (HIDDEN,)}
    for layer, count in enumerate(COUNTS):
        mlp = f"model.layers.{layer}.mlp."
        shapes[f"{mlp}gate.weight"] = (count, HIDDEN)
        for expert in range(count):
            shapes[f"{mlp}experts.{expert}.gate_proj.weight"] = (INTER, HIDDEN)
            shapes[f"{mlp}experts.{expert}.up_proj.weight"] = (INTER, HIDDEN)
            shapes[f"{mlp}experts.{expert}.down_proj.weight"] = (HIDDEN, INTER)
    return {
        name: torch.randint(-(2**15), 2**15, shape, dtype=torch.int16, generator=draw).view(
            torch.bfloat16
        )
        for name, shape in shapes.items()
    }


def save(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir()
    save_file(pruned(), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("config", [QWEN, {**QWEN, "num_experts": COUNTS}, {"model_type": "novel"}])
@pytest.mark.parametrize("layout", ["fused", "fused-flat", "stacked", "fused-interleaved"])
def test_every_layer_in_another_layout_and_back(
    tmp_path: Path, layout: str, config: dict[str, Any]
) -> None:
    source = save(tmp_path / "in", config)
    out, back = tmp_path / "out", tmp_path / "back"
    streamconv.convert(source, out, to=layout, max_shard_size="1KB", verify=True)
    expected = reference.to_layout(pruned(), layout)
    assert reference.same_bytes(expected, reference.read(out)) == []
    forget(out)
    streamconv.split(out, back, source_layout=layout)
    assert reference.same_bytes(pruned(), reference.read(back)) == []
    assert not streamconv.verify(source, back).differences

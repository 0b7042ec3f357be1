"""Notes on experts next to quantized weights: which of them say what."""

from pathlib import Path

import pytest
import torch
from header_models import Tensors, checkpoint_of
from plain_layers import E, write

import streamconv
from streamconv.planning.expert_notes import expert_notes

MLP = "model.layers.0.mlp.experts."
PACKED: Tensors = {
    "model.layers.0.self_attn.q_proj.weight_packed": ("I32", (64, 8)),
    "model.layers.0.self_attn.q_proj.weight_scale": ("BF16", (64, 2)),
}


@pytest.mark.parametrize(
    ("experts", "says"),
    [
        ({"weight": ("BF16", (32, 64))}, "are not quantized, and other weights are packed"),
        ({"weight": ("F8_E4M3", (32, 64)), "weight_scale": ("BF16", (32, 1))}, ""),
        ({"weight_packed": ("I32", (32, 8)), "weight_scale": ("BF16", (32, 2))}, ""),
    ],
)
def test_plain_experts_next_to_packed_weights(experts: Tensors, says: str) -> None:
    """Those of another number format are not plain."""
    names = [f"{MLP}{number}.{name}_proj." for number in range(2) for name in ("up", "down")]
    tensors = {f"{name}{word}": each for name in names for word, each in experts.items()}
    found = list(expert_notes(checkpoint_of({**PACKED, **tensors}).tensors.items(), ()))
    assert len(found) == bool(says)
    assert all(says in note for note in found)


def test_blocks_of_what_is_merged_with_nothing(tmp_path: Path) -> None:
    """Down, of fewer than 128 rows, has one row of blocks; the second of gate and up would not
    begin with a block."""
    sizes = {"gate": (96, 64), "up": (96, 64), "down": (64, 96)}
    tensors = {
        f"{MLP}{number}.{name}_proj.weight": torch.ones(shape)
        for number in range(E)
        for name, shape in sizes.items()
    }
    plan = streamconv.plan(write(tmp_path / "s", tensors), to="per-expert", quantize="fp8-block")
    (note,) = [note for note in plan.config.notes if "end inside a block" in note]
    assert "gate_proj" in note
    assert "up_proj" in note
    assert "down_proj" not in note

"""A small Qwen3-MoE in BF16, whose sizes are whole groups and no whole blocks."""

from pathlib import Path

import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM


def save_small_qwen(folder: Path, layers: int) -> Path:
    """Let transformers write the model; return the folder."""
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        hidden_size=64,
        intermediate_size=32,
        moe_intermediate_size=32,
        num_hidden_layers=layers,
        num_experts=11,
        num_experts_per_tok=2,
        vocab_size=64,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
    )
    Qwen3MoeForCausalLM(config).bfloat16().save_pretrained(folder)
    return folder

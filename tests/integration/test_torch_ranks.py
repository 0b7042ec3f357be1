"""Sharded state dicts and models of several ranks are filled from checkpoints of other layouts."""

import os
import subprocess
import sys
from pathlib import Path

import torch
import transformers
from hub_server import Hub, serving

import streamconv

RANKS = Path(__file__).parents[1] / "helpers" / "reader_ranks.py"


def test_ranks_load_their_shards(tmp_path: Path) -> None:
    """Of every way to divide, equal to torch's own readers on what was converted; then train."""
    config = transformers.Qwen3MoeConfig(
        vocab_size=66,
        hidden_size=48,
        intermediate_size=80,
        moe_intermediate_size=21,
        num_hidden_layers=2,
        num_experts=8,
        num_experts_per_tok=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=12,
        dtype="float32",
    )
    torch.manual_seed(0)
    hub = tmp_path / "hub"
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(
        hub, max_shard_size="90KB"
    )
    streamconv.convert(hub, tmp_path / "fused", to="fused")
    streamconv.convert(hub, tmp_path / "dcp", to="fused", format="dcp")
    streamconv.convert(hub, tmp_path / "flat", to="fused-flat", format="dcp")
    with serving(Hub({"org/moe": hub})) as served:
        done = subprocess.run(
            [sys.executable, str(RANKS), str(tmp_path), "hf://org/moe"],
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "HF_ENDPOINT": served.url,
                "HF_HOME": str(tmp_path / "home"),
            },
        )
    assert done.returncode == 0, done.stderr
    assert served.sent

"""The main job on a small checkpoint that transformers writes: plan, merge, split, equal.

Run it with `make demo`. Every command is shown before it runs.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.utils import logging


def main() -> None:
    """Make a checkpoint, convert it there and back, and compare the bytes."""
    transformers.logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="streamconv-demo-") as place:
        folder = Path(place)
        print("A tiny Qwen3-MoE with random weights, as transformers saves it:")
        make_checkpoint(folder / "model")
        for path in sorted((folder / "model").iterdir()):
            print(f"  {path.name}  {path.stat().st_size:,} bytes")
        run(folder, "inspect", "model")
        run(folder, "merge", "model", "merged", "--dry-run")
        run(folder, "merge", "model", "merged")
        run(folder, "inspect", "merged")
        run(folder, "split", "merged", "again")
        original, again = read(folder / "model"), read(folder / "again")
        same = original.keys() == again.keys() and all(
            torch.equal(original[name].view(torch.int16), again[name].view(torch.int16))
            for name in original
        )
        print(f"\n{len(again)} tensors came back, every byte as it was: {same}")
        sys.exit(0 if same else 5)


def make_checkpoint(folder: Path) -> None:
    """A model of two layers with sixteen experts each, saved per expert."""
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        moe_intermediate_size=48,
        num_hidden_layers=2,
        num_experts=16,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = Qwen3MoeForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="500KB")


def run(folder: Path, *arguments: str) -> None:
    """One command of the tool, shown as it would be typed."""
    print(f"\n$ streamconv {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "streamconv", *arguments], cwd=folder, check=True)


def read(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a folder, by safetensors' own reader."""
    tensors = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            tensors.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return tensors


if __name__ == "__main__":
    main()

"""The main job on a small checkpoint that transformers writes: plan, merge, verify, check, split.

Run it with `make demo`. Every command is shown before it runs.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


RATE = "10MB/s"
"""How fast the merge may read, so that its progress can be seen."""


def main() -> None:
    """Make a checkpoint, convert it there and back, and compare the bytes at each step."""
    say("importing torch and transformers, which make the checkpoint (streamconv needs neither)")
    import torch

    with tempfile.TemporaryDirectory(prefix="streamconv-demo-") as place:
        folder = Path(place)
        say("making a small Qwen3-MoE with random weights, as transformers saves it")
        make_checkpoint(folder / "model")
        for path in sorted((folder / "model").iterdir()):
            print(f"  {path.name}  {path.stat().st_size:,} bytes")
        run(folder, "inspect", "model")
        run(folder, "merge", "model", "merged", "--dry-run")
        run(folder, "merge", "model", "merged", "--max-rate", RATE)
        run(folder, "verify", "model", "merged")
        run(folder, "check", "merged")
        run(folder, "split", "merged", "again")
        say("comparing the tensors with those of the original, by safetensors' own reader")
        original, again = read(folder / "model"), read(folder / "again")
        same = original.keys() == again.keys() and all(
            torch.equal(original[name].view(torch.int16), again[name].view(torch.int16))
            for name in original
        )
        print(f"\n{len(again)} tensors came back, every byte as it was: {same}")
        sys.exit(0 if same else 5)


def make_checkpoint(folder: Path) -> None:
    """Save a model of four layers with 32 experts each, one tensor per expert."""
    import torch
    import transformers
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
    from transformers.utils import logging

    transformers.logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=256,
        hidden_size=256,
        intermediate_size=512,
        moe_intermediate_size=128,
        num_hidden_layers=4,
        num_experts=32,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = Qwen3MoeForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="10MB")


def say(text: str) -> None:
    """Print what happens next, at once."""
    print(f"\n# {text}", flush=True)


def run(folder: Path, *arguments: str) -> None:
    """Run a command of the tool, shown as it would be typed."""
    print(f"\n$ streamconv {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "streamconv", *arguments], cwd=folder, check=True)


def read(folder: Path) -> "dict[str, torch.Tensor]":
    """Return every tensor of a folder, by safetensors' own reader."""
    from safetensors import safe_open

    tensors = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            tensors.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return tensors


if __name__ == "__main__":
    main()

"""The usual way to fuse a checkpoint's experts: load the whole model, stack, save.

What `make bench` measures streamconv against, so it is as good as a script of this kind gets
without giving up its simplicity: a layer's experts are freed as soon as they are stacked, and the
shards are cut by huggingface_hub. Needs the whole model in memory.
"""

import argparse
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file, save_file

EXPERT = re.compile(r"(.+\.experts)\.\d+\.(?:gate|up|down)_proj\.weight")


def fuse(source: Path, target: Path, *, transpose: bool) -> None:
    """Write a fused copy: gate_up `[E, 2I, H]`, down `[E, H, I]`; with their last axes swapped."""
    state: dict[str, torch.Tensor] = {}
    for file in sorted(source.glob("*.safetensors")):
        state |= load_file(file)
    found = Counter(match[1] for match in map(EXPERT.fullmatch, state) if match)
    for module, count in found.items():
        stacked = {
            part: torch.stack(
                [state.pop(f"{module}.{e}.{part}_proj.weight") for e in range(count // 3)]
            )
            for part in ("gate", "up", "down")
        }
        gate_up = torch.cat([stacked.pop("gate"), stacked.pop("up")], dim=1)
        down = stacked.pop("down")
        if transpose:
            gate_up = gate_up.transpose(1, 2).contiguous()
            down = down.transpose(1, 2).contiguous()
        state[f"{module}.gate_up_proj"] = gate_up
        state[f"{module}.down_proj"] = down

    target.mkdir()
    split = split_torch_state_dict_into_shards(
        state, filename_pattern="model{suffix}.safetensors", max_shard_size="5GB"
    )
    for name, tensors in split.filename_to_tensors.items():
        save_file({key: state[key] for key in tensors}, target / name, {"format": "pt"})
    index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
    (target / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    shutil.copy(source / "config.json", target)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Fuse a checkpoint's experts in memory.")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--transpose", action="store_true", help="swap the last two axes")
    args = parser.parse_args()
    fuse(args.source, args.target, transpose=args.transpose)


if __name__ == "__main__":
    main()

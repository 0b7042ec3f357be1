"""The usual way to fuse a checkpoint's experts: load the whole model, stack, save.

What `make bench` measures streamconv against: a new state dict is made next to the loaded one,
so it needs twice the model in memory. With `--free` a layer's experts are let go as soon as they
are stacked, which is as good as a script of this kind gets without giving up its simplicity.
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


def fuse(source: Path, target: Path, *, transpose: bool, free: bool) -> None:
    """Write a fused copy: gate_up `[E, 2I, H]`, down `[E, H, I]`; with their last axes swapped."""
    loaded: dict[str, torch.Tensor] = {}
    for file in sorted(source.glob("*.safetensors")):
        loaded |= load_file(file)
    found = Counter(match[1] for match in map(EXPERT.fullmatch, loaded) if match)
    state = {name: tensor for name, tensor in loaded.items() if not EXPERT.fullmatch(name)}
    take = loaded.pop if free else loaded.__getitem__
    for module, count in found.items():
        stacked = {
            part: torch.stack([take(f"{module}.{e}.{part}_proj.weight") for e in range(count // 3)])
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
    parser.add_argument("--free", action="store_true", help="let go of what has been stacked")
    args = parser.parse_args()
    fuse(args.source, args.target, transpose=args.transpose, free=args.free)


if __name__ == "__main__":
    main()

"""The usual way to a DCP and back, with the whole model in memory: what `make bench` compares with.

To: load, stack, `dcp.save`. From: `_load_state_dict`, split, `save_file`.
"""

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

EXPERT = re.compile(r"(.+\.experts)\.\d+\.(?:gate|up|down)_proj\.weight")


def to_dcp(source: Path, target: Path) -> None:
    state: dict[str, torch.Tensor] = {}
    for file in sorted(source.glob("*.safetensors")):
        state |= load_file(file)
    found = Counter(match[1] for match in map(EXPERT.fullmatch, list(state)) if match)
    for module, count in found.items():
        gate, up, down = (
            torch.stack([state.pop(f"{module}.{e}.{part}_proj.weight") for e in range(count // 3)])
            for part in ("gate", "up", "down")
        )
        state[f"{module}.gate_up_proj"] = torch.cat([gate, up], dim=1)
        state[f"{module}.down_proj"] = down
    dcp.save(state, checkpoint_id=target, no_dist=True)


def from_dcp(source: Path, target: Path) -> None:
    state: dict[str, Any] = {}
    reader, planner = dcp.FileSystemReader(source), _EmptyStateDictLoadPlanner()
    _load_state_dict(state, storage_reader=reader, planner=planner, no_dist=True)
    for name in [name for name in state if name.endswith(".experts.gate_up_proj")]:
        module = name.removesuffix(".gate_up_proj")
        down = state.pop(f"{module}.down_proj")
        for e, both in enumerate(state.pop(name)):
            gate, up = both.chunk(2)
            state[f"{module}.{e}.gate_proj.weight"] = gate.clone()
            state[f"{module}.{e}.up_proj.weight"] = up.clone()
            state[f"{module}.{e}.down_proj.weight"] = down[e].clone()
    target.mkdir()
    save_torch_state_dict(state, target, max_shard_size="4GB")


if __name__ == "__main__":
    way, source, target = sys.argv[1:]
    {"to": to_dcp, "from": from_dcp}[way](Path(source), Path(target))

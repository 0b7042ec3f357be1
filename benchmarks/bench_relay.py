"""A relay of tensors next to a state dict that is converted as a whole, in memory.

Part of `make bench`. Both ways get the tensors of a trainer, and each tensor that comes out is
copied into one buffer that is used again, as a server copies it into its parameters. Peak is the
memory that the way adds to the trainer's tensors, in a process of its own; bytes copied are counted
apart, on the meta device, from every operation of torch that copies into a tensor. Statements
are those that a user writes.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import bench

LAYERS, EXPERTS = 4, 32  # 1.2 GB; a layer of Qwen3-30B-A3B has 128 experts
INTERMEDIATE, HIDDEN = 768, 2048
Pairs = Iterable[tuple[str, Any]]
CONFIG = {
    "model_type": "qwen3_moe",
    "num_experts": EXPERTS,
    "moe_intermediate_size": INTERMEDIATE,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
}
SPLIT, MERGE = ("fused", "per-expert"), ("per-expert", "fused")


# --- the ways: functions of a state dict -----------------------------------------------------


def split_by_views(state: dict[str, Any]) -> Pairs:
    import streamconv

    return streamconv.relay(
        state.items(), source="fused", to="per-expert", config=CONFIG, views=True
    )


def split_by_relay(state: dict[str, Any]) -> Pairs:
    import streamconv

    return streamconv.relay(state.items(), source="fused", to="per-expert", config=CONFIG)


def split_by_hand(state: dict[str, Any]) -> Pairs:
    made = {}
    for name, tensor in state.items():
        owner, _, last = name.rpartition(".")
        if last == "gate_up_proj":
            for number, both in enumerate(tensor):
                gate, up = both.chunk(2)
                made[f"{owner}.{number}.gate_proj.weight"] = gate.contiguous()
                made[f"{owner}.{number}.up_proj.weight"] = up.contiguous()
        elif last == "down_proj":
            for number, down in enumerate(tensor):
                made[f"{owner}.{number}.down_proj.weight"] = down.contiguous()
        else:
            made[name] = tensor
    return made.items()


def split_by_transformers(state: dict[str, Any]) -> Pairs:
    import torch
    import transformers
    from transformers.core_model_loading import revert_weight_conversion

    with torch.device("meta"):
        config = transformers.Qwen3MoeConfig(**CONFIG)
        model = transformers.AutoModelForCausalLM.from_config(config)
    pairs: Pairs = revert_weight_conversion(model, state).items()
    return pairs


def merge_by_relay(state: dict[str, Any]) -> Pairs:
    import streamconv

    return streamconv.relay(state.items(), to="fused", config=CONFIG)


def merge_by_hand(state: dict[str, Any]) -> Pairs:
    import re

    import torch

    made: dict[str, Any] = {}
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for name, tensor in state.items():
        match = re.fullmatch(r"(.*\.experts)\.(\d+)\.(\w+)_proj\.weight", name)
        if match:
            layer = found.setdefault(match[1], {})
            layer.setdefault(int(match[2]), {})[match[3]] = tensor
        else:
            made[name] = tensor
    for owner, layer in found.items():
        numbers = range(len(layer))
        gate_up = [torch.cat([layer[n]["gate"], layer[n]["up"]]) for n in numbers]
        made[f"{owner}.gate_up_proj"] = torch.stack(gate_up)
        made[f"{owner}.down_proj"] = torch.stack([layer[n]["down"] for n in numbers])
    return made.items()


WAYS: dict[str, tuple[tuple[str, str], Callable[[dict[str, Any]], Pairs], str]] = {
    "split-views": (SPLIT, split_by_views, '`relay(to="per-expert", views=True)`'),
    "split-relay": (SPLIT, split_by_relay, '`relay(to="per-expert")`'),
    "split-hand": (SPLIT, split_by_hand, "a dict by hand, for one family"),
    "split-transformers": (SPLIT, split_by_transformers, "`revert_weight_conversion`"),
    "merge-relay": (MERGE, merge_by_relay, '`relay(to="fused")`'),
    "merge-hand": (MERGE, merge_by_hand, "a dict by hand, for one family"),
}


# --- one process for each figure -------------------------------------------------------------


def state_dict(layout: str, device: str) -> dict[str, Any]:
    """The experts of a trainer, with memory that is touched."""
    import torch

    shapes: Iterator[tuple[str, tuple[int, ...]]]
    if layout == "fused":
        shapes = iter(
            [
                ("gate_up_proj", (EXPERTS, 2 * INTERMEDIATE, HIDDEN)),
                ("down_proj", (EXPERTS, HIDDEN, INTERMEDIATE)),
            ]
        )
    else:
        shapes = (
            (f"{number}.{name}_proj.weight", shape)
            for number in range(EXPERTS)
            for name, shape in (
                ("gate", (INTERMEDIATE, HIDDEN)),
                ("up", (INTERMEDIATE, HIDDEN)),
                ("down", (HIDDEN, INTERMEDIATE)),
            )
        )
    return {
        f"model.layers.{layer}.mlp.experts.{name}": torch.ones(
            shape, dtype=torch.bfloat16, device=device
        )
        for name, shape in list(shapes)
        for layer in range(LAYERS)
    }


def memory(field: str) -> int:
    """The resident bytes of this process: `VmRSS` now, `VmHWM` at most."""
    with Path("/proc/self/status").open() as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def by_layers(state: dict[str, Any]) -> dict[str, Any]:
    return {name: state[name] for name in sorted(state, key=lambda name: name.split(".")[2])}


def measure(way: str) -> None:
    """Print seconds and added peak of a way."""
    import torch

    (layout, _), convert, _ = WAYS[way]
    torch.set_num_threads(1)
    state = by_layers(state_dict(layout, "cpu"))
    nbytes = sum(tensor.nbytes for tensor in state.values())
    buffer = torch.ones(max(EXPERTS * 2 * INTERMEDIATE * HIDDEN, 1), dtype=torch.bfloat16)
    next(iter(convert({"model.norm.weight": torch.ones(1)})))  # imports are apart
    before = memory("VmRSS")
    begin = time.perf_counter()
    for _, tensor in convert(state):
        buffer[: tensor.numel()].view(tensor.shape).copy_(tensor)
    seconds = time.perf_counter() - begin
    print(json.dumps({"seconds": seconds, "peak": memory("VmHWM") - before, "nbytes": nbytes}))


def count(way: str) -> int:
    """Return the bytes that a way copies."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counter(TorchDispatchMode):
        copied = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            made = func(*args, **(kwargs or {}))
            if func.overloadpacket.__name__ in ("copy_", "clone", "cat", "stack", "_to_copy"):
                self.copied += made.nbytes
            return made

    (layout, _), convert, _ = WAYS[way]
    state = by_layers(state_dict(layout, "meta"))
    with Counter() as counter:
        for _ in convert(state):
            pass
    return counter.copied


def statements_of(function: Callable[..., Any]) -> int:
    """Return the statements in a way's body, imports apart."""
    (tree,) = ast.parse(inspect.getsource(function)).body
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.stmt) and node is not tree)
    return sum(not isinstance(node, ast.Import | ast.ImportFrom) for node in nodes)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure a relay next to whole state dicts.")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each way (3)")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        measure(args.way)
        return
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(args.rounds):
        for way, samples in found.items():
            command = [sys.executable, __file__, "--way", way]
            done = subprocess.run(
                command, env=bench.ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True
            )
            samples.append(json.loads(done.stdout))
    print(
        f"{LAYERS} layers of {EXPERTS} experts of Qwen3-30B-A3B in bf16, "
        f"{found['split-hand'][0]['nbytes'] / 1e9:.1f} GB, on one core, medians of {args.rounds}; "
        "each tensor is copied into one buffer:\n"
    )
    print("| experts | way | statements | copied, MB | added peak, MB | wall, s |")
    print("|---|---|---|---|---|---|")
    for way, ((source, target), function, text) in WAYS.items():
        seconds, peak = (
            bench.median(sample[key] for sample in found[way]) for key in ("seconds", "peak")
        )
        print(
            f"| {source} to {target} | {text} | {statements_of(function)} | {count(way) / 1e6:.0f} "
            f"| {max(peak, 0) / 1e6:.0f} | {seconds:.2f} |"
        )


if __name__ == "__main__":
    main()

"""Lazy tensors next to `safe_open` on files that are converted already, all in the page cache.

Part of `make bench`. Each tensor is copied into one buffer that is used again, and dropped, on both
sides: a view of a map costs nothing until it is read. Every reading is a process of its own, which
is timed from the call that opens; imports are apart.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import bench

LAYERS = 4  # of Qwen3-30B-A3B, 4.8 GB a side
LAYOUTS = {"fused": 1.2, "fused-transposed": 1.5}
"""How much longer than `safe_open` all tensors of a layout may take."""
EIGHTH = 0.2
"""How much of the time of all experts an eighth of them may take."""
READ = """
import json, sys, time
from pathlib import Path
import torch
from safetensors import safe_open
import streamconv, streamconv.lazy.opening
way, folder, layout, experts = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
buffer = torch.empty(2**30, dtype=torch.bfloat16)
buffer.zero_()
def copy(tensor):
    buffer[: tensor.numel()].view(tensor.shape).copy_(tensor)
torch.set_num_threads(1)
begin = time.perf_counter()
if way == "safe_open":
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                copy(file.get_slice(name)[:experts])
else:
    with streamconv.open(folder, to=layout) as model:
        for name, tensor in model.items():
            copy(tensor[:experts])
print(json.dumps(time.perf_counter() - begin))
"""


def seconds(way: str, folder: Path, layout: str, experts: int) -> float:
    """Read all tensors, or of each some experts, in a process of its own."""
    command = [sys.executable, "-c", READ, way, folder, layout, str(experts)]
    done = subprocess.run(
        command, env=bench.ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True
    )
    return float(json.loads(done.stdout))


def lazy_tensors(work: Path, layers: int, rounds: int) -> list[str]:
    """A row for each layout, and for an eighth of the experts."""
    source = work / "source"
    bench.require(work, layers * 1.21e9 * 2.2)
    truesize = bench.python("truesize.py", "qwen3-30b-a3b", source, "--layers", str(layers))
    bench.run(*truesize, "--random", "--experts-only")
    rows = []
    for layout, limit in LAYOUTS.items():
        made = work / layout
        bench.run(*bench.streamconv("convert", source, made, "-q", "--to", layout))
        sides = (
            ("safe_open", made, 128),
            ("open", source, 128),
            ("open", source, 16),
            ("open", made, 128),
        )
        for _, folder, _ in sides:
            bench.settle(work, 2**31, folder, pause=0)
        found: list[list[float]] = [[] for _ in sides]
        for _ in range(rounds):
            for (way, folder, experts), times in zip(sides, found, strict=True):
                times.append(seconds(way, folder, layout, experts))
        there, ours, eighth, views = map(bench.median, found)
        for name, wall, against, most in (
            (f"open(to={layout!r}), all", ours, there, limit),
            (f"open(to={layout!r}), an eighth of the experts", eighth, ours, EIGHTH),
            (f"open of the {layout} files", views, there, limit),
        ):
            met = "yes" if wall <= most * against else "**no**"
            rows.append(
                f"| {name} | {against:.2f} | {wall:.2f} | {wall / against:.2f} x | {most:g} x "
                f"| {met} |"
            )
            print(f"bench: {name}: {wall:.2f} s against {against:.2f} s", file=sys.stderr)
        bench.remove(made)
    return [
        f"Experts of {layers} layers of Qwen3-30B-A3B, {bench.size(source) / 1e9:.1f} GB, in the "
        f"page cache, medians of {rounds} runs, each tensor copied into one buffer. All are "
        "compared with `safe_open` on the converted files, an eighth with all:",
        "",
        "| run | against, s | wall, s | ratio | allowed | met |",
        "|---|---|---|---|---|---|",
        *rows,
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure lazy tensors next to safe_open.")
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"layers ({LAYERS})")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each side (3)")
    parser.add_argument("--work", type=Path, help="work in a new folder in here (next to the cwd)")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="streamconv-bench-", dir=args.work or Path.cwd().parent))
    try:
        lines = lazy_tensors(work, args.layers, args.rounds)
    finally:
        shutil.rmtree(work)
    print("\n".join(lines))


if __name__ == "__main__":
    main()

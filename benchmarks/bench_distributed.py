"""A sharded model filled from a hub checkpoint: streamconv's reader next to what torch has.

Part of `make bench`. Two ranks of gloo share the experts of a few layers, which the hub stores one
by one and the model fused. Nothing is in the page cache when they begin, so that the bytes that
come from the disk can be counted. Time is that of the load alone, between two barriers.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import bench

LAYERS = 2  # of Qwen3-30B-A3B, 2.4 GB
RANKS = 2
WAYS = {
    "reader": "`streamconv.torch.StorageReader`",
    "converted": "`HuggingFaceStorageReader`, converted before",
    "by_hand": "`HuggingFaceStorageReader`, into views made by hand",
    "whole": "the whole model in rank 0, stacked and sent",
}
"""The functions of `distributed_ways.py`."""


def row(way: str, source: Path, converted: Path, results: Path, convert: bench.Sample) -> str:
    """Run a way on all ranks, and return its row of the table."""
    bench.settle(source.parent, 2**31, pause=0)
    launch: list[str | Path] = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc-per-node", str(RANKS)]
    launch += bench.python("distributed_ways.py", way, source, converted, results)[1:]
    bench.run(*launch)
    facts = [json.loads((results / f"{way}-{rank}.json").read_text()) for rank in range(RANKS)]
    seconds = max(each["seconds"] for each in facts)
    read = sum(each["read"] for each in facts)
    wall, moved = f"{seconds:.1f}", f"{read / 1e9:.1f}"
    if way == "converted":
        nbytes = bench.size(source)
        wall += f", after {convert.wall:.1f}"
        moved += f", after {nbytes / 1e9:.1f} and as many written"
    bench.say(f"{way}: {seconds:.2f} s")
    peak = max(each["peak"] for each in facts)
    name, lines = WAYS[way], facts[0]["lines"]
    return f"| {name} | {lines} | {moved} | {peak / 1e6:.0f} | {wall} |"


def distributed(work: Path, layers: int) -> list[str]:
    """Return the table."""
    source, converted, results = work / "source", work / "converted", work / "results"
    bench.require(work, layers * 1.21e9 * 2.2)
    truesize = bench.python("truesize.py", "qwen3-30b-a3b", source, "--layers", str(layers))
    bench.run(*truesize, "--random", "--experts-only")
    results.mkdir()
    bench.settle(work, 2**31, pause=0)
    command = bench.streamconv("convert", source, converted, "-q", "--to", "fused")
    convert = bench.run(*command, sync=True)
    return [
        f"Experts of {layers} layers of Qwen3-30B-A3B, {bench.size(source) / 1e9:.1f} GB, divided "
        f"among {RANKS} ranks, nothing in the page cache, single runs. Peak is the memory of a "
        "rank in addition to its shards:",
        "",
        "| way | lines | read, GB | peak, MB | wall, s |",
        "|---|---|---|---|---|",
        *(row(way, source, converted, results, convert) for way in WAYS),
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure how a sharded model is filled.")
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"layers ({LAYERS})")
    parser.add_argument("--work", type=Path, help="work in a new folder in here (next to the cwd)")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="streamconv-bench-", dir=args.work or Path.cwd().parent))
    try:
        lines = distributed(work, args.layers)
    finally:
        shutil.rmtree(work)
    print("\n".join(lines))


if __name__ == "__main__":
    main()

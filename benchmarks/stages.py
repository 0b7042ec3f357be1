"""Where the time of a conversion goes: reading, moving, decoding, hashing, writing.

Part of `make bench`. One worker, source in the page cache. The functions that do the work are
wrapped in clocks, of wall and of CPU time of their thread; the rest is Python between them. Each
figure is in milliseconds for each GB (10^9 bytes) of output.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import bench

LAYERS = 2  # of Qwen3-30B-A3B, 2.4 GB
STAGES = ("read", "decode", "transpose", "hash", "write", "sync", "other")
QUANTIZED = {"fp8": 24, "int4": 24, "mxfp4": 16}
"""Experts of a layer of true shapes."""

CLOCKED = """
import json, sys, time
from collections import Counter
import streamconv
import xxhash
from streamconv.execution import transpose, worker
from streamconv.quantization import decode
from streamconv.sources.wrappers import cast
from streamconv.system import linux_file_ops
src, dst, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
wall, cpu, stack = Counter(), Counter(), []
def clocked(owner, name, stage):
    inner = getattr(owner, name)
    def call(*args, **kwargs):
        began, used, below = time.perf_counter(), time.thread_time(), [0.0, 0.0]
        stack.append(below)
        try:
            return inner(*args, **kwargs)
        finally:
            stack.pop()
            took, spent = time.perf_counter() - began, time.thread_time() - used
            wall[stage] += took - below[0]
            cpu[stage] += spent - below[1]
            if stack:
                stack[-1][0] += took
                stack[-1][1] += spent
    setattr(owner, name, call)
files = linux_file_ops.LinuxFiles
clocked(files, "read_into", "read")
clocked(files, "write", "write")
clocked(files, "sync", "sync")
clocked(transpose.Panel, "write_into", "transpose")
clocked(decode.RowDecoder, "decode", "decode")
class Digest:
    def __init__(self):
        self.inner = xxhash.xxh3_128()
    def reset(self):
        self.inner.reset()
    def update(self, data):
        self.inner.update(data)
    def hexdigest(self):
        return self.inner.hexdigest()
clocked(Digest, "update", "hash")
worker.xxh3_128 = Digest
clocked(worker.Worker, "write", "other")
result = streamconv.convert(src, dst, jobs=1, **options)
nbytes = result.plan.data_bytes
print(json.dumps({s: [wall[s] / nbytes * 1e12, cpu[s] / nbytes * 1e12] for s in wall}))
"""


def clocked(work: Path, source: Path, options: dict[str, str]) -> dict[str, tuple[float, float]]:
    """Run a conversion under clocks; return wall and CPU of each stage, in ms for each GB."""
    out = work / "out"
    bench.settle(work, bench.OWN_BYTES, source, pause=0)
    command = [sys.executable, "-c", CLOCKED, str(source), str(out), json.dumps(options)]
    done = subprocess.run(
        command, env=bench.ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True
    )
    bench.remove(out)
    found: dict[str, tuple[float, float]] = json.loads(done.stdout)
    return found


def row(name: str, runs: Sequence[dict[str, tuple[float, float]]]) -> str:
    """A row of the table: medians of wall and CPU for each stage, and their sums."""
    cells = []
    for stage in STAGES:
        pairs = [run.get(stage, (0.0, 0.0)) for run in runs]
        wall, cpu = (bench.median(pair[k] for pair in pairs) for k in (0, 1))
        cells.append(f"{wall:.0f} ({cpu:.0f})" if wall or cpu else "")
    sums = [bench.median(sum(p[k] for p in run.values()) for run in runs) for k in (0, 1)]
    return f"| {name} | {' | '.join(cells)} | {sums[0]:.0f} ({sums[1]:.0f}) |"


def stages(work: Path, layers: int, rounds: int, share: float) -> list[str]:
    """The table, in Markdown."""
    rows = []
    source = work / "source"
    truesize = bench.python("truesize.py", "qwen3-30b-a3b", source, "--layers", str(layers))
    bench.run(*truesize, "--random", "--experts-only")
    for layout in ("fused", "fused-transposed"):
        runs = [clocked(work, source, {"to": layout}) for _ in range(rounds)]
        rows.append(row(f"per-expert to {layout}", runs))
        print(rows[-1], file=sys.stderr, flush=True)
    bench.remove(source)
    for kind, experts in QUANTIZED.items():
        made = bench.python("quantized_layers.py", kind, source)
        bench.run(*made, "--experts", str(max(int(experts * share), 2)))
        options = {"dequantize": "bf16", **({} if kind == "mxfp4" else {"to": "fused"})}
        runs = [clocked(work, source, options) for _ in range(rounds)]
        rows.append(row(f"{kind} to bf16", runs))
        print(rows[-1], file=sys.stderr, flush=True)
        bench.remove(source)
    return [
        f"One worker, in the page cache, medians of {rounds} runs: wall (CPU) in ms a GB written:",
        "",
        f"| run | {' | '.join(STAGES)} | all |",
        f"|---|{'---|' * (len(STAGES) + 1)}",
        *rows,
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"layers ({LAYERS})")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each (3)")
    parser.add_argument("--share", type=float, default=1.0, help="of the quantized experts (1)")
    parser.add_argument("--work", type=Path, help="work in a new folder in here (next to the cwd)")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="streamconv-bench-", dir=args.work or Path.cwd().parent))
    try:
        print("\n".join(stages(work, args.layers, args.rounds, args.share)))
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()

"""What more ranks gain: one and two are measured on this machine, more are computed from that.

As `bench.py` measures: in turns, from the start of a process to the end of a `sync`. A source that
hardly has bytes gives what torchrun, torch, and meeting take; `dd` gives what the disk takes. Then

    seconds = start + bytes / min(workers * rate of a worker, rate of the disk)

where the rate of a worker is that of one rank with one worker. One rank with two workers and two
ranks with one each use the same cores: what differs between them is what a rank costs. More
workers than there are cores here stand for hosts of their own, which share a disk like this one,
or a file system that takes whatever they write.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bench

MEASURED = ((1, 1), (1, 2), (2, 1))
"""Ranks, and workers of each."""
COMPUTED = ((4, 1), (8, 1))
PAUSE = 3.0
HIDDEN, INTERMEDIATE, EXPERTS = 768, 256, 8
"""Of the source that hardly has bytes: 9 MB."""


@dataclass(frozen=True, slots=True)
class Model:
    """What seconds are computed from: bytes, seconds, bytes a second."""

    nbytes: int
    start: float
    worker: float
    disk: float

    def seconds(self, workers: int, *, shared: bool = True) -> float:
        """What so many workers take; without `shared` the disk is no limit."""
        rate = workers * self.worker
        return self.start + self.nbytes / (min(rate, self.disk) if shared else rate)


def write_little(folder: Path) -> None:
    """A checkpoint of one layer that takes no time to convert; its data are a hole."""
    folder.mkdir()
    fields, end = {}, 0
    shapes = {
        "gate_proj": (INTERMEDIATE, HIDDEN),
        "up_proj": (INTERMEDIATE, HIDDEN),
        "down_proj": (HIDDEN, INTERMEDIATE),
    }
    for expert in range(EXPERTS):
        for name, shape in shapes.items():
            begin, end = end, end + 2 * HIDDEN * INTERMEDIATE
            fields[f"model.layers.0.mlp.experts.{expert}.{name}.weight"] = {
                "dtype": "BF16",
                "shape": shape,
                "data_offsets": (begin, end),
            }
    header = json.dumps(fields).encode()
    with (folder / "model.safetensors").open("xb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
    (folder / "config.json").write_text('{"model_type": "qwen3_moe"}')


def side(ranks: int, workers: int, source: Path, out: Path, rounds: int) -> bench.Side:
    """A conversion with transposes by so many ranks, each with so many workers."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    tool = ["-m", "streamconv", "merge", source, out, "--to", "fused-transposed", "-q"]
    options = ["-j", str(workers), "--max-shard-size", "1GB"]
    command = [*launch, "--nproc-per-node", str(ranks), *tool, *options]
    return bench.Side(shown(ranks, workers), source, command, rounds, ranks * bench.OWN_BYTES)


def shown(ranks: int, workers: int) -> str:
    """The first columns of a row."""
    return f"{ranks} | {workers}"


def measure(work: Path, layers: int, rounds: int) -> tuple[bench.Samples, bench.Samples, int]:
    """Samples of the starts of one and two ranks, of conversions and the disk; and the bytes."""
    bench.say("writing the source")
    bench.require(work, layers * 1.21e9 * 2.2)
    source, little, out = work / "source", work / "little", work / "out"
    model = bench.python("truesize.py", "qwen3-30b-a3b", source, "--layers", str(layers))
    bench.run(*model, "--random", "--experts-only")
    write_little(little)
    nbytes = bench.size(source)
    starts = [side(ranks, 1, little, out, rounds) for ranks in (1, 2)]
    sides = [side(*how, source, out, rounds) for how in MEASURED]
    written: list[str | Path] = [sys.executable, "-c", bench.ONLY_WRITE, out, str(nbytes)]
    disk = bench.Side(bench.DISK, source, written, rounds)
    return (
        bench.in_turns(work, out, starts, bench.size(little), pause=0),
        bench.in_turns(work, out, [*sides, disk], nbytes, PAUSE),
        nbytes,
    )


def middle(runs: Sequence[bench.Sample]) -> float:
    return bench.median(run.wall for run in runs)


def report(starts: bench.Samples, samples: bench.Samples, nbytes: int) -> str:
    """What was measured and what follows from it, in Markdown."""
    start = {ranks: middle(starts[shown(ranks, 1)]) for ranks in (1, 2)}
    moving = middle(samples[shown(1, 1)]) - start[1]
    if moving <= 0:
        raise SystemExit("scaling: the source takes no longer than starting: give more --layers")
    disk = nbytes / middle(samples[bench.DISK])
    models = {ranks: Model(nbytes, start[ranks], nbytes / moving, disk) for ranks in start}
    lines = [
        f"A rank starts in {start[1]:.1f} s, two in {start[2]:.1f} s; a worker moves "
        f"{nbytes / moving / 1e9:.2f} GB/s, the disk takes {disk / 1e9:.2f} GB/s.",
        "",
        "| ranks | workers each | measured, s | computed, this disk, s | computed, any disk, s |",
        "|---|---|---|---|---|",
    ]
    for ranks, workers in (*MEASURED, *COMPUTED):
        walls = sorted(run.wall for run in samples.get(shown(ranks, workers), ()))
        measured = f"{bench.median(walls):.1f} ({walls[0]:.1f} to {walls[-1]:.1f})" if walls else ""
        model = models[min(ranks, 2)]
        computed = [model.seconds(ranks * workers, shared=shared) for shared in (True, False)]
        cells = [shown(ranks, workers), measured, *(f"{seconds:.1f}" for seconds in computed)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure one and two ranks, compute more.")
    parser.add_argument("--layers", type=int, default=4, help="layers of Qwen3-30B-A3B (4)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each side (3)")
    parser.add_argument("--work", type=Path, help="work in a new folder in here (next to the cwd)")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun says at length that it sets it
    work = Path(tempfile.mkdtemp(prefix="streamconv-scaling-", dir=args.work or Path.cwd().parent))
    try:
        place = bench.machine(work)
        starts, samples, nbytes = measure(work, args.layers, args.rounds)
    finally:
        shutil.rmtree(work)
    source = bench.source_line(args.layers, nbytes)
    print(f"{place}\n\n{source}\n\n{report(starts, samples, nbytes)}")


if __name__ == "__main__":
    main()

"""Every pair of layouts, FP8 at DeepSeek-V3's shapes, and transformers doing the same.

Part of `make bench`; measured as bench.py says. A pair is one run, and the `cp -r` of the same
bytes that is nearest to it in time.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import bench

LAYOUTS = ("per-expert", "fused", "fused-transposed", "fused-flat", "stacked", "fused-interleaved")
LAYERS = 2  # of Qwen3-30B-A3B, 2.4 GB
PAUSE = 3.0  # seconds; shorter than for what fills the memory
ROUNDS = 3
FP8_LAYERS = 4  # of DeepSeek-V3, of which three are dense, so that its experts are 11.4 GB


def measured(
    work: Path, source: Path, command: list[str | Path], need: int = bench.OWN_BYTES
) -> bench.Sample:
    """One run that reads `source` from the page cache and writes `work / "out"`.

    It finds `need` bytes of memory that have been touched.
    """
    bench.settle(work, need, source, PAUSE)
    sample = bench.run(*command, sync=True)
    bench.remove(work / "out")
    print(f"bench: {' '.join(map(str, command[-3:]))}: {sample.wall:.2f} s", file=sys.stderr)
    return sample


def in_turns(
    work: Path, source: Path, sides: dict[str, list[str | Path]], needs: dict[str, int]
) -> bench.Samples:
    """ROUNDS runs of each side, in turns; `needs` says who uses more memory than a conversion."""
    samples: bench.Samples = {name: [] for name in sides}
    for turn in range(ROUNDS):
        for name in [*sides][:: -1 if turn % 2 else 1]:
            need = needs.get(name, bench.OWN_BYTES)
            samples[name].append(measured(work, source, sides[name], need))
    return samples


def pairs(work: Path) -> list[str]:
    """A row for each source layout, a column for each target: GB/s, and against cp."""
    out = work / "out"
    folders = {layout: work / layout for layout in LAYOUTS}
    bench.require(work, LAYERS * 1.21e9 * (len(LAYOUTS) + 1))
    bench.run(
        *bench.python("truesize.py", "qwen3-30b-a3b", folders["per-expert"]),
        *("--layers", str(LAYERS), "--random", "--experts-only"),
    )
    nbytes = bench.size(folders["per-expert"])
    for layout in LAYOUTS[1:]:
        convert = bench.streamconv("convert", folders["per-expert"], folders[layout], "-q")
        bench.run(*convert, "--to", layout)
    rows = [f"| from \\ to | {' | '.join(LAYOUTS)} |", "|---" * (len(LAYOUTS) + 1) + "|"]
    for source in LAYOUTS:
        copy = measured(work, folders[source], ["cp", "-r", folders[source], out], nbytes)
        cells = []
        for target in LAYOUTS:
            command = bench.streamconv("convert", folders[source], out, "-q", "--to", target)
            if source == target:
                cells.append("")
                continue
            run = measured(work, folders[source], command)
            cells.append(f"{nbytes / run.wall / 1e9:.1f} ({run.wall / copy.wall:.2f} x)")
        rows.append(f"| {source} | {' | '.join(cells)} |")
    for folder in folders.values():
        bench.remove(folder)
    return [f"GB/s of {nbytes / 1e9:.1f} GB, and the time against `cp -r`:", "", *rows]


def fp8(work: Path) -> list[str]:
    """Experts with block scales, as DeepSeek-V3 is published."""
    source, out = work / "deepseek", work / "out"
    bench.run(
        *bench.python("truesize.py", "deepseek-v3", source, "--layers", str(FP8_LAYERS)),
        *("--experts-only", "--random"),
    )
    nbytes = bench.size(source)
    bench.require(work, nbytes * 1.1)
    rows = []
    sides: dict[str, list[str | Path]] = {
        "cp -r": ["cp", "-r", source, out],
        "convert --to fused": bench.streamconv("convert", source, out, "-q", "--to", "fused"),
        "merge --to fused-transposed": bench.streamconv(
            *("merge", source, out, "-q", "--to", "fused-transposed")
        ),
    }
    samples = in_turns(work, source, sides, {"cp -r": nbytes})
    for name, runs in samples.items():
        wall = bench.median(run.wall for run in runs)
        against = wall / bench.median(run.wall for run in samples["cp -r"])
        peak = max(run.peak for run in runs) / 1e6
        rows.append(f"| {name} | {wall:.2f} | {against:.2f} x | {peak:.0f} |")
    bench.remove(source)
    return [
        f"FP8 with block scales, experts of a layer of DeepSeek-V3, {nbytes / 1e9:.1f} GB:",
        "",
        "| run | wall, s | against cp -r | peak, MB |",
        "|---|---|---|---|",
        *rows,
    ]


def beside_transformers(work: Path) -> list[str]:
    """`from_pretrained` and `save_pretrained` of a whole small model, and the same here."""
    source, out = work / "whole", work / "out"
    bench.run(
        *bench.python("truesize.py", "qwen3-30b-a3b", source),
        *("--layers", str(LAYERS), "--random"),
    )
    nbytes = bench.size(source)
    convert = bench.streamconv("convert", source, out, "-q", "--to", "transformers")
    whole = "transformers: load, save fused"
    sides = {
        whole: bench.python("transformers_way.py", source, out),
        "streamconv convert --to transformers": convert,
    }
    rows = []
    samples = in_turns(work, source, sides, {whole: 2 * nbytes})
    for name, runs in samples.items():
        wall, peak = bench.median(run.wall for run in runs), max(run.peak for run in runs) / 1e6
        rows.append(f"| {name} | {wall:.2f} | {peak:.0f} |")
    bench.remove(source)
    return [
        f"{LAYERS} layers of Qwen3-30B-A3B with embeddings, {nbytes / 1e9:.1f} GB:",
        "",
        "| run | wall, s | peak, MB |",
        "|---|---|---|",
        *rows,
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure every pair of layouts.")
    parser.add_argument("--work", type=Path, help="work in a new folder in here (next to the cwd)")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="streamconv-bench-", dir=args.work or Path.cwd().parent))
    try:
        tables = [pairs(work), fp8(work), beside_transformers(work)]
        print("\n\n".join("\n".join(table) for table in [[bench.machine(work)], *tables]))
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()

"""Verification next to `cat` of the same files, the page cache dropped before each.

Part of `make bench`; measured as bench.py says, except that nothing is in the page cache:
both sides read every byte that is compared from the disk.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import bench

LAYERS = 4  # of Qwen3-30B-A3B, 4.8 GB a side
LIMIT = 1.5
"""How much longer than `cat` of both folders a proof may take."""
LAYOUTS = ("fused-transposed", "fused")


def measured(work: Path, command: list[str | Path]) -> bench.Sample:
    """One run with nothing of the work folder in the page cache."""
    bench.settle(work, bench.OWN_BYTES, pause=bench.PAUSE / 2)
    return bench.run(*command)


def cat(*folders: Path) -> list[str | Path]:
    """Reading all files of the folders, from one to the next."""
    return ["cat", *(path for f in folders for path in sorted(f.rglob("*")) if path.is_file())]


def verification(work: Path, layers: int, rounds: int) -> list[str]:
    """A row for each way to verify, with what `cat` takes for the same files."""
    source = work / "source"
    bench.require(work, layers * 1.21e9 * (1.1 + len(LAYOUTS)))
    truesize = bench.python("truesize.py", "qwen3-30b-a3b", source, "--layers", str(layers))
    bench.run(*truesize, "--random", "--experts-only")
    sides: dict[str, tuple[list[str | Path], list[str | Path]]] = {}
    for layout in LAYOUTS:
        made = work / layout
        bench.run(*bench.streamconv("convert", source, made, "-q", "--to", layout))
        proof = bench.streamconv("verify", source, made, "-q")
        sides[f"verify SRC DST, {layout}"] = cat(source, made), proof
    made = work / LAYOUTS[0]
    sides["verify DST"] = cat(made), bench.streamconv("verify", made, "-q")
    sides["verify DST --sha256"] = cat(made), bench.streamconv("verify", made, "-q", "--sha256")
    rows = []
    for name, (plain, ours) in sides.items():
        runs = [(measured(work, plain), measured(work, ours)) for _ in range(rounds)]
        reading = bench.median(run.wall for run, _ in runs)
        wall = bench.median(run.wall for _, run in runs)
        cpu = bench.median(run.cpu for _, run in runs)
        peak = max(run.peak for _, run in runs) / 1e6
        met = "yes" if wall <= LIMIT * reading else "**no**"
        rows.append(
            f"| {name} | {reading:.2f} | {wall:.2f} | {cpu:.2f} | {wall / reading:.2f} x "
            f"| {met} | {peak:.0f} |"
        )
        print(f"bench: {name}: {wall:.2f} s, cat {reading:.2f} s", file=sys.stderr)
    return [
        f"Experts of {layers} layers of Qwen3-30B-A3B, {bench.size(source) / 1e9:.1f} GB a side, "
        f"nothing in the page cache, medians of {rounds} runs:",
        "",
        f"| run | cat, s | wall, s | CPU, s | against cat | <= {LIMIT:g} x | peak, MB |",
        "|---|---|---|---|---|---|---|",
        *rows,
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure verification next to cat.")
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"layers ({LAYERS})")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each side (3)")
    parser.add_argument("--work", type=Path, help="work in a new folder in here (next to the cwd)")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="streamconv-bench-", dir=args.work or Path.cwd().parent))
    try:
        lines = verification(work, args.layers, args.rounds)
    finally:
        shutil.rmtree(work)
    print("\n".join(lines))


if __name__ == "__main__":
    main()

"""DCP in the benchmark: to and from, beside `cp -r` and torch's own way with the whole model.

As `bench.py` measures: in turns, from the start of a process to the end of a `sync`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from bench import OWN_BYTES, Samples, median, python, remove, require, run, settle, size, streamconv

ALLOWED = 1.3


def measure(work: Path, layers: int, rounds: int, whole_rounds: int) -> Samples:
    """Samples of each side; the source is there as safetensors and as DCP."""
    require(work, layers * 1.21e9 * 3.2)
    source, trained, out = work / "source", work / "dcp", work / "out"
    model = python("truesize.py", "qwen3-30b-a3b", source, "--layers", str(layers))
    run(*model, "--random", "--experts-only")
    to_dcp = ["--layout", "fused", "--format", "dcp", "-q"]
    run(*streamconv("merge", source, trained, *to_dcp))
    nbytes = size(source)
    sides: dict[str, tuple[Path, list[str | Path], int]] = {
        "cp -r": (source, ["cp", "-r", source, out], rounds),
        "merge to DCP": (source, streamconv("merge", source, out, *to_dcp), rounds),
        "split from DCP": (trained, streamconv("split", trained, out, "-q"), rounds),
        "whole model to DCP": (source, python("whole_dcp.py", "to", source, out), whole_rounds),
        "whole model from DCP": (
            trained,
            python("whole_dcp.py", "from", trained, out),
            whole_rounds,
        ),
    }
    samples: Samples = {name: [] for name in sides}
    for turn in range(max(rounds, whole_rounds)):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            before, command, times = sides[name]
            if turn < times:
                own = not name.startswith(("cp", "whole"))
                settle(work, OWN_BYTES if own else 2 * nbytes, before)
                samples[name].append(run(*command, sync=True))
                remove(out)
    return samples


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure DCP in both directions.")
    parser.add_argument("--work", type=Path, default=Path.cwd(), help="a folder on the disk to use")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--whole-rounds", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.work, prefix="streamconv-bench-") as place:
        samples = measure(Path(place), args.layers, args.rounds, args.whole_rounds)
    copied = median(sample.wall for sample in samples["cp -r"])
    print("| run | wall, s | peak, MB | against cp -r | allowed |\n|---|---|---|---|---|")
    for name, runs in samples.items():
        if runs:
            wall, peak = median(r.wall for r in runs), max(r.peak for r in runs) / 1e6
            allowed = f"{ALLOWED} x" if "DCP" in name and "whole" not in name else ""
            print(f"| {name} | {wall:.2f} | {peak:.0f} | {wall / copied:.2f} x | {allowed} |")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

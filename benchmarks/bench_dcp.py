"""DCP in the benchmark: to and from, next to `cp -r` and torch's own way with the whole model.

As `bench.py` measures: in turns, from the start of a process to the end of a `sync`.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import bench

ALLOWED = 1.3
"""How much longer than `cp -r` each direction may take."""
PEAK = 100
"""MB that it may hold."""
SIDES = {"merge to DCP": "whole model to DCP", "split from DCP": "whole model from DCP"}
"""Each direction, and the usual way to do the same."""


def conversions(
    work: Path, layers: int, rounds: int, whole_rounds: int
) -> tuple[bench.Samples, int]:
    """Samples of each side, and the bytes of the checkpoint, which is there in both formats."""
    bench.say("writing the source")
    bench.require(work, layers * 1.21e9 * 3.2)
    source, trained, out = work / "source", work / "dcp", work / "out"
    model = bench.python("truesize.py", "qwen3-30b-a3b", source, "--layers", str(layers))
    bench.run(*model, "--random", "--experts-only")
    to_dcp = ["--to", "fused", "--format", "dcp", "-q"]
    bench.run(*bench.streamconv("merge", source, trained, *to_dcp))
    nbytes = bench.size(source)
    whole = {way: bench.python("whole_dcp.py", way) for way in ("to", "from")}
    merge, split = (
        bench.streamconv("merge", source, out, *to_dcp),
        bench.streamconv("split", trained, out, "-q"),
    )
    sides = [
        bench.Side("cp -r", source, ["cp", "-r", source, out], rounds, need=nbytes),
        bench.Side("merge to DCP", source, merge, rounds),
        bench.Side("split from DCP", trained, split, rounds),
        bench.Side(
            "whole model to DCP", source, [*whole["to"], source, out], whole_rounds, 2 * nbytes
        ),
        bench.Side(
            "whole model from DCP",
            trained,
            [*whole["from"], trained, out],
            whole_rounds,
            2 * nbytes,
        ),
    ]
    return bench.in_turns(work, out, sides, nbytes, bench.PAUSE / 2), nbytes


def targets(samples: bench.Samples) -> list[bench.Target]:
    """The promises, as far as their sides were measured."""
    wall = {name: bench.median(run.wall for run in runs) for name, runs in samples.items() if runs}
    found = []
    for name, whole in SIDES.items():
        against = wall[name] / wall["cp -r"]
        found.append(bench.Target(f"{name} against cp -r", ALLOWED, against, "x"))
        if whole in wall:
            faster = wall[whole] / wall[name]
            found.append(bench.Target(f"{name}, faster than {whole}", None, faster, "x", True))
    peak = max(run.peak for name in SIDES for run in samples[name]) / 1e6
    return [*found, bench.Target("peak of both", PEAK, peak, "MB")]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure DCP in both directions.")
    parser.add_argument("--layers", type=int, default=8, help="layers of Qwen3-30B-A3B (8)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the fast sides (3)")
    parser.add_argument("--whole-rounds", type=int, default=1, help="rounds of the slow sides (1)")
    parser.add_argument("--work", type=Path, help="work in a new folder in here (next to the cwd)")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="streamconv-bench-", dir=args.work or Path.cwd().parent))
    try:
        place = bench.machine(work)
        samples, nbytes = conversions(work, args.layers, args.rounds, args.whole_rounds)
    finally:
        shutil.rmtree(work)
    source = bench.source_line(args.layers, nbytes)
    print(f"{place}\n\n{source}\n\n{bench.report(samples, targets(samples))}")


if __name__ == "__main__":
    main()

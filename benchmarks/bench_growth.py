"""How cost grows from 2 to 61 layers of Kimi-K2 and from 10 to 384 experts: one table, one plot.

Part of `make bench`. A plan is that of the whole model in true size (a dry run on sparse files).
Conversion and `verify SRC DST` are of its routed experts alone, as many as the model has but a
32nd as wide and as long, so that the largest result is 2 GB instead of 2 TB: what grows with the
number of tensors is true, what grows with bytes is a thousandth. Layer 0 has no experts.

CPU seconds, peaks and counts of bytes are right on a busy machine, too; wall is left out. Bytes are
those of the process's system calls, modules that it imports included, from the page cache or not.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import bench
import growth_plot

LAYERS = (2, 4, 8, 16, 31, 61)
EXPERTS = (10, 24, 48, 96, 192, 384)
NARROW = 32
SMALLEST = (LAYERS[0], EXPERTS[0])
BY_LAYERS = tuple((layers, EXPERTS[-1]) for layers in LAYERS)
BY_EXPERTS = tuple((LAYERS[-1], experts) for experts in EXPERTS)
RUNS = ("plan", "convert", "verify")
LINEAR = 1.1
"""How much more than the tensors the costs of a tensor may grow by, from the half to all."""


@dataclass(frozen=True, slots=True)
class Point:
    """What a size of the model costs: a sample of each of RUNS, and the bytes of the result."""

    layers: int
    experts: int
    samples: dict[str, bench.Sample]
    nbytes: int

    @property
    def tensors(self) -> int:
        """Number of the routed experts' tensors."""
        return 3 * self.experts * (self.layers - 1)


def best(command: list[str | Path], rounds: int, clear: Path | None = None) -> bench.Sample:
    """Return the run with the least CPU, as other work on the machine only adds to it.

    `clear` is deleted before each.
    """
    samples = []
    for _ in range(rounds):
        if clear and clear.exists():
            shutil.rmtree(clear)
        samples.append(bench.run(*command, fine=(0, bench.NO_SPACE) if "-n" in command else (0,)))
    return min(samples, key=lambda sample: sample.cpu)


def measure(work: Path, layers: int, experts: int, rounds: int) -> Point:
    """Measure a model with so many layers, of so many experts each."""
    whole, narrow, out = work / "whole", work / "narrow", work / "out"
    sizes = ["--layers", str(layers), "--experts", str(experts)]
    bench.run(*bench.python("truesize.py", "kimi-k2", whole, *sizes))
    bench.run(
        *bench.python("truesize.py", "kimi-k2", narrow, *sizes),
        *("--experts-only", "--narrow", str(NARROW)),
    )
    to = ["--to", "fused-transposed", "-q"]
    samples = {
        "plan": best(bench.streamconv("convert", whole, work / "no", *to, "-n"), rounds),
        "convert": best(bench.streamconv("convert", narrow, out, *to), rounds, out),
        "verify": best(bench.streamconv("verify", narrow, out, "-q"), rounds),
    }
    point = Point(layers, experts, samples, bench.size(out))
    for folder in (whole, narrow, out):
        shutil.rmtree(folder)
    bench.say(f"{layers} layers of {experts} experts: {samples['convert'].cpu:.1f} s of CPU")
    return point


def table(points: Iterable[Point]) -> list[str]:
    """Return a row for each size."""
    lines = [
        "| layers | experts | expert tensors | result, MB | plan: CPU, s | peak, MB | read, MB "
        "| convert: CPU, s | peak, MB | read / written | verify: CPU, s | peak, MB "
        "| read / compared |",
        "|---" * 13 + "|",
    ]
    for point in points:
        plan, convert, verify = (point.samples[name] for name in RUNS)
        cells = [
            f"{point.layers}",
            f"{point.experts}",
            f"{point.tensors:,}",
            f"{point.nbytes / 1e6:.0f}",
            f"{plan.cpu:.2f}",
            f"{plan.peak / 1e6:.0f}",
            f"{plan.read / 1e6:.0f}",
            f"{convert.cpu:.2f}",
            f"{convert.peak / 1e6:.0f}",
            f"{convert.read / point.nbytes:.2f}",
            f"{verify.cpu:.2f}",
            f"{verify.peak / 1e6:.0f}",
            f"{verify.read / point.nbytes / 2:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def growth(found: dict[tuple[int, int], Point]) -> list[str]:
    """Return a row for each run and way to grow: what a tensor costs in each half."""
    lines = [
        "| run | grows by | microseconds a tensor, first half | second half | linear or better "
        "| peak, bytes a tensor |",
        "|---|---|---|---|---|---|",
    ]
    for name in RUNS:
        for way, sizes in (("layers", BY_LAYERS), ("experts", BY_EXPERTS)):
            first, half, last = (found[size] for size in (sizes[0], sizes[-2], sizes[-1]))

            def slope(
                low: Point, high: Point, value: Callable[[bench.Sample], float], name: str = name
            ) -> float:
                rise = value(high.samples[name]) - value(low.samples[name])
                return rise / (high.tensors - low.tensors)

            early, late = (
                1e6 * slope(low, high, lambda sample: sample.cpu)
                for low, high in ((first, half), (half, last))
            )
            peak = slope(first, last, lambda sample: sample.peak)
            verdict = "yes" if late <= LINEAR * early else "**no**"
            lines.append(f"| {name} | {way} | {early:.0f} | {late:.0f} | {verdict} | {peak:.0f} |")
    return lines


def panels(found: dict[tuple[int, int], Point]) -> list[growth_plot.Panel]:
    """Return CPU and peak over the number of tensors, a line for each run and way to grow."""

    def panel(title: str, value: Callable[[bench.Sample], float]) -> growth_plot.Panel:
        lines = [
            growth_plot.Line(
                f"{name}, {way}",
                name,
                tuple((found[s].tensors, value(found[s].samples[name])) for s in sizes),
                dashed=way == "more experts",
            )
            for name in RUNS
            for way, sizes in (("more layers", BY_LAYERS), ("more experts", BY_EXPERTS))
        ]
        return growth_plot.Panel(title, "expert tensors", tuple(lines))

    return [
        panel("CPU, s", lambda sample: sample.cpu),
        panel("peak, MB", lambda sample: sample.peak / 1e6),
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure how cost grows with layers and experts.")
    parser.add_argument(
        "--rounds", type=int, default=3, help="runs of each, the least CPU counts (3)"
    )
    parser.add_argument("--work", type=Path, help="work in a new folder in here (next to the cwd)")
    parser.add_argument("--plot", type=Path, help="draw the plot as this SVG")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="streamconv-growth-", dir=args.work or Path.cwd().parent))
    found: dict[tuple[int, int], Point] = {}
    try:
        place = bench.machine(work)
        bench.require(work, 5e9)
        for size in sorted({SMALLEST, *BY_LAYERS, *BY_EXPERTS}):
            found[size] = measure(work, *size, args.rounds)
    finally:
        shutil.rmtree(work)
    rows = [found[size] for size in (SMALLEST, *BY_LAYERS, *BY_EXPERTS[:-1])]
    print("\n".join([place, "", *table(rows), "", *growth(found)]))
    if args.plot:
        args.plot.parent.mkdir(parents=True, exist_ok=True)
        args.plot.write_text(growth_plot.svg(panels(found)))


if __name__ == "__main__":
    main()

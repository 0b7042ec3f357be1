"""Dequantizing and quantizing one layer of published shapes, next to `cp` and to torch.

Part of `make bench`; measured as bench.py says. `cp -r` copies the result, so it is what writing
the output takes. As people do it in torch, a layer needs more memory than most machines have, and
ten minutes. So the usual way runs once, on the experts that fit, and its time is multiplied. A
source that is larger than half of the memory is read from the disk. If the disk has no room for all
experts of a layer, there are fewer of them. The table says each of these.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import bench
from bench_layouts import PAUSE

LAYER = {"fp8": 256, "int4": 384, "mxfp4": 128, "bf16-deepseek": 256, "bf16-kimi": 384}
"""Experts of a layer, by the kind of checkpoint that quantized_layers.py writes."""
USUAL_EXPERTS = 24
"""Experts that the usual way is run on, at most: half a minute."""
USUAL_SHARE = 0.5
"""Part of the machine's memory that the usual way may take."""


@dataclass(frozen=True)
class Kind:
    """A conversion from one number format to another."""

    name: str
    usual: str
    """What does the usual way."""
    verb: tuple[str, ...]
    options: tuple[str, ...]
    script: str
    becomes: str
    source: str
    """The kind of checkpoint that quantized_layers.py writes."""
    usual_bytes: int
    """Memory of the usual way for each byte of the source, at most."""

    @property
    def title(self) -> str:
        """The run as the table has it."""
        return " ".join([self.verb[0], *self.options])

    def command(self, source: Path, target: Path) -> list[str | Path]:
        """Return the command line of the conversion."""
        verb, *more = self.verb
        return bench.streamconv(verb, source, target, *more, "-q", *self.options)


def _dequantized(name: str, usual: str, source: str) -> Kind:
    """Return a dequantization, merged."""
    options = ("--dequantize", "bf16")
    return Kind(name, usual, ("merge",), options, "usual_dequantize.py", "BF16", source, 14)


def _quantized(name: str, usual: str, encoding: str, source: str) -> Kind:
    """Return a quantization, expert by expert."""
    verb = ("convert", "--to", "per-expert")
    options = ("--quantize", encoding)
    return Kind(name, usual, verb, options, "usual_quantize.py", encoding, source, 3)


KINDS = {
    "fp8": _dequantized("FP8 in blocks, DeepSeek-V3", "DeepSeek's formula in torch", "fp8"),
    "int4": _dequantized("int4 in groups of 32, Kimi-K2", "compressed-tensors", "int4"),
    "mxfp4": _dequantized("MXFP4, gpt-oss-120b", "transformers", "mxfp4"),
    "fp8-block": _quantized(
        "BF16 to FP8 in blocks, DeepSeek-V3", "the formula in torch", "fp8-block", "bf16-deepseek"
    ),
    "int4-g32": _quantized(
        "BF16 to int4 in groups of 32, Kimi-K2", "compressed-tensors", "int4-g32", "bf16-kimi"
    ),
}


def memory() -> int:
    """Return the bytes of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def made(work: Path, kind: Kind, experts: int) -> Path:
    """Write a source with some experts, or all of a layer if it is 0."""
    source = work / kind.source
    more = ("--experts", str(experts)) if experts else ()
    bench.run(*bench.python("quantized_layers.py", kind.source, source), *more)
    return source


@dataclass(frozen=True)
class Part:
    """Some of the experts: what each of them has, and what the usual way takes for them."""

    experts: int
    source_bytes: float
    """Bytes of an expert in the source."""
    result_bytes: float
    usual: bench.Sample


def part(work: Path, kind: Kind, experts: int) -> Part:
    """Run the usual way on as many experts as it has the memory for, and `experts` at most."""
    source, result = made(work, kind, 2), work / "out"
    bench.run(*kind.command(source, result))
    one, other = bench.size(source) / 2, bench.size(result) / 2
    for folder in (source, result):
        bench.remove(folder)
    count = max(min(experts, int(memory() * USUAL_SHARE / (one * kind.usual_bytes))), 2)
    source = made(work, kind, count)
    usual_argument = kind.becomes if kind.becomes != "BF16" else kind.source
    command = [*bench.python(kind.script, usual_argument, source, work / "out")]
    sample = measured(work, source, command, int(one * count * kind.usual_bytes))
    bench.remove(source)
    return Part(count, one, other, sample)


def layer(work: Path, name: str, experts: int, rounds: int) -> list[str]:
    """Measure one format; return the lines of its table."""
    kind = KINDS[name]
    few = part(work, kind, min(experts or USUAL_EXPERTS, USUAL_EXPERTS))
    room = few.source_bytes + 2 * few.result_bytes
    fitting = int(shutil.disk_usage(work).free * 0.95 / room)
    whole = LAYER[kind.source]
    wanted = min(experts or whole, fitting)
    source, result, out = made(work, kind, wanted), work / "result", work / "out"
    runs: dict[str, list[bench.Sample]] = {"cp -r of the result": [], kind.title: []}
    for turn in range(rounds):
        is_first = turn == 0
        run = measured(work, source, kind.command(source, out), keep=result if is_first else None)
        runs[kind.title].append(run)
        written = bench.size(result)
        copy = measured(work, source, ["cp", "-r", result, out], written)
        runs["cp -r of the result"].append(copy)
    copied = bench.median(run.wall for run in runs["cp -r of the result"])
    rows = [row(side, samples, 1.0, copied, written) for side, samples in runs.items()]
    scale = wanted / few.experts
    usual = kind.usual if scale == 1 else f"{kind.usual}, {few.experts} of them, times {scale:.1f}"
    rows.append(row(usual, [few.usual], scale, copied, written))
    nbytes = bench.size(source)
    for folder in (source, result):
        bench.remove(folder)
    return [
        f"{kind.name}, {wanted} of {whole} experts of a layer: {nbytes / 1e9:.1f} GB become "
        f"{written / 1e9:.1f} GB of {kind.becomes}, medians of {rounds}:",
        "",
        "| run | wall, s | against cp | GB/s written | CPU, s | peak, MB |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def row(side: str, runs: list[bench.Sample], scale: float, copied: float, written: int) -> str:
    """Return a row of the table; wall and CPU are multiplied by `scale`."""
    wall = bench.median(run.wall for run in runs) * scale
    cpu = bench.median(run.cpu for run in runs) * scale
    peak = max(run.peak for run in runs) / 1e6
    rate = written / wall / 1e9
    return f"| {side} | {wall:.2f} | {wall / copied:.2f} x | {rate:.2f} | {cpu:.1f} | {peak:.0f} |"


def measured(
    work: Path,
    source: Path,
    command: list[str | Path],
    need: int = bench.OWN_BYTES,
    keep: Path | None = None,
) -> bench.Sample:
    """One run that reads `source`, from the page cache if it fits, and writes `work / "out"`.

    The result is moved to `keep`, or removed.
    """
    bench.settle(work, need, source if bench.size(source) < memory() / 2 else None, PAUSE)
    sample = bench.run(*command, sync=True)
    if keep is None:
        bench.remove(work / "out")
    else:
        (work / "out").rename(keep)
    bench.say(f"{' '.join(map(str, command[-3:]))}: {sample.wall:.2f} s")
    return sample


def main() -> None:
    """Measure all formats, or those that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", action="append", choices=[*KINDS], help="default: all")
    parser.add_argument("--work", type=Path, help="work in a new folder in here (next to the cwd)")
    parser.add_argument("--experts", type=int, default=0, help="instead of all of a layer")
    parser.add_argument("--rounds", type=int, default=2, help="runs of cp and of streamconv (2)")
    arguments = parser.parse_args()
    parent = arguments.work or Path.cwd().parent
    work = Path(tempfile.mkdtemp(prefix="streamconv-bench-", dir=parent))
    try:
        print(bench.machine(work), end="\n\n", flush=True)
        for kind in arguments.kind or KINDS:
            print("\n".join(layer(work, kind, arguments.experts, arguments.rounds)), flush=True)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()

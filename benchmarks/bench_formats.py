"""Dequantizing and quantizing one layer of published shapes, next to `cp` and to torch.

Part of `make bench`; measured as bench.py says. `cp -r` copies the result, so it is what writing
the output takes. The usual way in torch needs the memory for a layer several times; where there is
not enough, `--experts` takes fewer of them for all.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import bench
from bench_layouts import in_turns


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


def layer(work: Path, name: str, experts: int) -> list[str]:
    """Measure one format; return the lines of its table."""
    kind = KINDS[name]
    source, result, out = work / kind.source, work / "result", work / "out"
    more = ("--experts", str(experts)) if experts else ()
    bench.run(*bench.python("quantized_layers.py", kind.source, source), *more)
    nbytes = bench.size(source)
    bench.require(work, nbytes * 9)
    verb, *more_words = kind.verb
    words = (*more_words, "-q", *kind.options)
    run = bench.streamconv(verb, source, out, *words)
    bench.run(*bench.streamconv(verb, source, result, *words))
    written = bench.size(result)
    usual_argument = kind.becomes if kind.becomes != "BF16" else kind.source
    sides: dict[str, list[str | Path]] = {
        "cp -r of the result": ["cp", "-r", result, out],
        kind.title: run,
        kind.usual: [*bench.python(kind.script, usual_argument, source, out)],
    }
    needs = {"cp -r of the result": written, kind.usual: nbytes * kind.usual_bytes}
    samples = in_turns(work, source, sides, needs)
    rows = []
    for side, runs in samples.items():
        wall = bench.median(run.wall for run in runs)
        against = wall / bench.median(run.wall for run in samples["cp -r of the result"])
        cpu = bench.median(run.cpu for run in runs)
        peak = max(run.peak for run in runs) / 1e6
        rate = written / wall / 1e9
        rows.append(
            f"| {side} | {wall:.2f} | {against:.2f} x | {rate:.2f} | {cpu:.1f} | {peak:.0f} |"
        )
    for folder in (source, result):
        bench.remove(folder)
    return [
        f"{kind.name}, experts of a layer: {nbytes / 1e9:.1f} GB become {written / 1e9:.1f} GB "
        f"of {kind.becomes}:",
        "",
        "| run | wall, s | against cp | GB/s written | CPU, s | peak, MB |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def main() -> None:
    """Measure all formats, or those that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", action="append", choices=[*KINDS], help="default: all")
    parser.add_argument("--work", type=Path, help="work in a new folder in here (next to the cwd)")
    parser.add_argument("--experts", type=int, default=0, help="instead of all of a layer")
    arguments = parser.parse_args()
    parent = arguments.work or Path.cwd().parent
    work = Path(tempfile.mkdtemp(prefix="streamconv-bench-", dir=parent))
    try:
        print(bench.machine(work), end="\n\n", flush=True)
        for kind in arguments.kind or KINDS:
            print("\n".join(layer(work, kind, arguments.experts)), flush=True)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()

"""Dequantizing one layer of published shapes, next to `cp` and to the usual way in torch.

Part of `make bench`; measured as bench.py says. `cp -r` copies the result, so it is what writing
the output takes. The usual way needs the memory for a layer several times; where there is not
enough, `--experts` takes fewer of them for all.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import bench
from bench_layouts import in_turns

KINDS = {
    "fp8": ("FP8 in blocks, DeepSeek-V3", "DeepSeek's formula in torch"),
    "int4": ("int4 in groups of 32, Kimi-K2", "compressed-tensors"),
    "mxfp4": ("MXFP4, gpt-oss-120b", "transformers"),
}
USUAL_BYTES = 14
"""Memory of the usual way for each byte of codes, at most."""


def layer(work: Path, kind: str, experts: int) -> list[str]:
    """Measure one format; return the lines of its table."""
    source, result, out = work / kind, work / f"{kind}-bf16", work / "out"
    more = ("--experts", str(experts)) if experts else ()
    bench.run(*bench.python("quantized_layers.py", kind, source), *more)
    nbytes = bench.size(source)
    bench.require(work, nbytes * 9)
    merge = bench.streamconv("merge", source, out, "-q", "--dequantize", "bf16")
    bench.run(*bench.streamconv("merge", source, result, "-q", "--dequantize", "bf16"))
    written = bench.size(result)
    name, usual = KINDS[kind]
    sides: dict[str, list[str | Path]] = {
        "cp -r of the result": ["cp", "-r", result, out],
        "merge --dequantize bf16": merge,
        usual: [*bench.python("usual_dequantize.py", kind, source, out)],
    }
    needs = {"cp -r of the result": written, usual: nbytes * USUAL_BYTES}
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
        f"{name}, experts of a layer: {nbytes / 1e9:.1f} GB become {written / 1e9:.1f} GB of BF16:",
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

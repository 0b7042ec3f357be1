"""The memory of conversions that decode or encode: a layer of true shapes, and Qwen3-30B-A3B.

Part of `make bench`. A peak is the largest resident set of a whole process, MB are 10^6 bytes.
Sources are sparse, so nothing here is a time. A layer has all of its experts; Qwen3-30B-A3B is
compared with the same conversion without a cast, in BF16 and as `--quantize fp8-block` stores it.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import bench
from bench_formats import KINDS

LAYER_LIMIT = 300
ADDED_LIMIT = 64
MERGE = ("merge", "--to", "fused", "-q")


def peak(command: list[str | Path], out: Path, *, is_kept: bool = False) -> float:
    """Run a conversion to `out`; return its peak in MB."""
    found = bench.run(*command).peak / 1e6
    bench.say(f"{' '.join(map(str, command[-4:]))}: {found:.0f} MB")
    if not is_kept:
        bench.remove(out)
    return found


def layers(work: Path, kinds: list[str], experts: int) -> list[str]:
    """A row for each format: the peak of one layer."""
    rows = []
    for name in kinds:
        kind = KINDS[name]
        source, out = work / "source", work / "out"
        more = ("--experts", str(experts)) if experts else ()
        made = bench.python("quantized_layers.py", kind.source, source)
        bench.run(*made, "--sparse", *more)
        found = peak(kind.command(source, out), out)
        bench.remove(source)
        is_met = "yes" if found <= LAYER_LIMIT else "**no**"
        rows.append(f"| {kind.name}, to {kind.becomes} | {found:.0f} | {LAYER_LIMIT} | {is_met} |")
    return rows


def qwen(work: Path, count: int) -> list[str]:
    """A row for each cast: its peak above that of the same conversion without one."""
    plain, coded, out = work / "plain", work / "coded", work / "out"
    bench.run(*bench.python("truesize.py", "qwen3-30b-a3b", plain, "--layers", str(count)))

    def merged(source: Path, *options: str) -> float:
        verb, *more = MERGE
        return peak([*bench.streamconv(verb, source, out, *more, *options)], out)

    without = merged(plain)
    casts = {"merge --dtype fp16": (merged(plain, "--dtype", "fp16"), without)}
    split = bench.streamconv("convert", plain, coded, "--to", "per-expert", "-q")
    quantized = peak([*split, "--quantize", "fp8-block"], coded, is_kept=True)
    copied = peak(bench.streamconv("convert", plain, out, "--to", "stacked", "-q"), out)
    casts["convert --quantize fp8-block"] = (quantized, copied)
    casts["merge --dequantize bf16 of that"] = (
        merged(coded, "--dequantize", "bf16"),
        merged(coded),
    )
    rows = []
    for name, (found, base) in casts.items():
        is_met = "yes" if found - base <= ADDED_LIMIT else "**no**"
        rows.append(
            f"| {name}, {count} layers of Qwen3-30B-A3B | {found:.0f}, without a cast {base:.0f} | "
            f"{ADDED_LIMIT} more | {is_met} |"
        )
    return rows


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", action="append", choices=[*KINDS], help="default: all")
    parser.add_argument("--work", type=Path, help="work in a new folder in here (next to the cwd)")
    parser.add_argument("--experts", type=int, default=0, help="instead of all of a layer")
    parser.add_argument("--layers", type=int, default=4, help="of Qwen3-30B-A3B (4)")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="streamconv-bench-", dir=args.work or Path.cwd().parent))
    try:
        print("| conversion | peak, MB | limit, MB | met |\n|---|---|---|---|", flush=True)
        for rows in (layers(work, args.kind or [*KINDS], args.experts), qwen(work, args.layers)):
            print("\n".join(rows), flush=True)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()

"""What decoding alone takes: the kernels on one core, next to their steps in numpy and to memcpy.

Part of `make bench`. Times are those of the thread, so that other work on the machine counts only
by what it takes of the caches; the best of several passes. An element of the result has two bytes,
so 1 ns an element is 2 GB/s written for each core.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import bench
import numpy as np

import streamconv
from streamconv.quantization import decode

KINDS = {"fp8": "FP8 in blocks", "int4": "int4 in groups of 32", "mxfp4": "MXFP4"}
ELEMENTS = 2**17
"""Elements that the decoder has in the cache at once."""


def best(call: Callable[[], object], passes: int) -> float:
    """Return the CPU seconds of the fastest pass."""
    times = []
    for _ in range(passes):
        began = time.thread_time()
        call()
        times.append(time.thread_time() - began)
    return min(times)


def kernel(folder: Path, passes: int) -> float:
    """Return the nanoseconds an element that `RowDecoder.decode` takes for a checkpoint."""
    spent, elements = [0.0], [0]
    inner = decode.RowDecoder.decode

    def clocked(self: decode.RowDecoder, rows: range, out: memoryview) -> None:
        began = time.thread_time()
        inner(self, rows, out)
        spent[0] += time.thread_time() - began
        elements[0] += len(out) // 2

    decode.RowDecoder.decode = clocked  # type: ignore[method-assign]
    found = []
    try:
        for _ in range(passes):
            spent[0], elements[0] = 0.0, 0
            with streamconv.open(folder, to="same", dequantize="bf16") as checkpoint:
                for name in checkpoint:
                    _ = checkpoint[name][...]
            found.append(spent[0] / elements[0] * 1e9)
    finally:
        decode.RowDecoder.decode = inner  # type: ignore[method-assign]
    return min(found)


def steps(passes: int) -> list[tuple[str, float]]:
    """Return what numpy takes for each step of int4, in nanoseconds an element."""
    draw = np.random.default_rng(0)
    codes = draw.integers(0, 256, ELEMENTS // 2, dtype=np.uint8)
    index = np.empty(ELEMENTS // 2, np.intp)
    pairs = draw.random(512, np.float32).view(np.uint64)
    values = np.empty(ELEMENTS // 2, np.uint64)
    floats = values.view(np.float32).reshape(-1, 32)
    bits = values.view(np.uint32)
    scales = draw.random((ELEMENTS // 32, 1), np.float32)
    spare, result = np.empty(ELEMENTS, np.uint32), np.empty(ELEMENTS, np.uint16)
    other = np.zeros(ELEMENTS, np.uint16)
    one, half, sixteen = (np.uint32(number) for number in (1, 0x7FFF, 16))

    def rounded() -> None:
        np.right_shift(bits, sixteen, out=spare)
        np.bitwise_and(spare, one, out=spare)
        np.add(spare, bits, out=spare)
        np.add(spare, half, out=spare)
        np.right_shift(spare, sixteen, out=spare)

    calls: dict[str, Callable[[], object]] = {
        "a byte of two codes as an index": lambda: np.copyto(index, codes),
        "both numbers from a table": lambda: np.take(pairs, index, out=values, mode="clip"),
        "times the scale of their group": lambda: np.multiply(floats, scales, out=floats),
        "rounded to nearest even, five calls": rounded,
        "stored as 16 bits": lambda: np.copyto(result, spare, casting="unsafe"),
        "memcpy of the result": lambda: np.copyto(result, other),
    }
    found = {name: best(call, passes * 20) / ELEMENTS * 1e9 for name, call in calls.items()}
    *work, copy = found
    total = sum(found[name] for name in work)
    return [*((n, found[n]) for n in work), ("all steps of int4", total), (copy, found[copy])]


def line(name: str, nanoseconds: float) -> str:
    """Return a row of the table."""
    return f"| {name} | {nanoseconds:.2f} | {2 / nanoseconds:.1f} |"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experts", type=int, default=4, help="of a layer of true shapes (4)")
    parser.add_argument("--passes", type=int, default=5, help="passes of each (5)")
    parser.add_argument("--work", type=Path, help="work in a new folder in here (next to the cwd)")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="streamconv-bench-", dir=args.work or Path.cwd().parent))
    try:
        rows = []
        for kind, title in KINDS.items():
            source = work / kind
            made = bench.python("quantized_layers.py", kind, source)
            bench.run(*made, "--experts", str(args.experts))
            rows.append(line(f"`RowDecoder`, {title}", kernel(source, args.passes)))
            bench.remove(source)
        rows += [line(name, taken) for name, taken in steps(args.passes)]
        print(bench.machine(work), end="\n\n")
        print(
            "| decoded to bf16, one core | ns an element | GB/s written |",
            "|---|---|---|",
            sep="\n",
        )
        print("\n".join(rows))
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()

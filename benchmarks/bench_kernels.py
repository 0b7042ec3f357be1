"""What decoding alone takes: the kernels on one core, next to their steps in numpy and to memcpy.

Part of `make bench`. Times are those of the thread, so that other work on the machine counts only
by what it takes of the caches; the best of several passes. An element of the result has two bytes,
so 1 ns an element is 2 GB/s written for each core. The steps of a whole expert are measured in two
threads at once, too: their sum tells what two cores can write.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bench
import numpy as np

import streamconv
from streamconv.quantization import decode

KINDS = {"fp8": "FP8 in blocks", "int4": "int4 in groups of 32", "mxfp4": "MXFP4"}
ELEMENTS = 2**17
"""Elements that the decoder has in the cache at once."""


PORTION_BYTES = 2**21
"""Bytes of a result that a worker writes at once."""


def best(call: Callable[[], object], passes: int) -> float:
    """Return the CPU seconds of the fastest pass."""
    times = []
    for _ in range(passes):
        began = time.thread_time()
        call()
        times.append(time.thread_time() - began)
    return min(times)


def read_in_portions(tensor: streamconv.LazyTensor) -> None:
    """Read as much at once as a worker does: fresh memory for all would be measured, too."""
    *experts, rows, columns = tensor.shape
    step = max(PORTION_BYTES // (2 * columns), 1)
    for expert in range(experts[0]) if experts else [...]:
        for begin in range(0, rows, step):
            _ = tensor[expert, begin : begin + step] if experts else tensor[begin : begin + step]


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
                    read_in_portions(checkpoint[name])
            found.append(spent[0] / elements[0] * 1e9)
    finally:
        decode.RowDecoder.decode = inner  # type: ignore[method-assign]
    return min(found)


Calls = dict[str, Callable[[], object]]


def steps_of_int4() -> Calls:
    """Return the steps of ELEMENTS numbers of int4, each one call of numpy or some."""
    draw = np.random.default_rng(0)
    codes = draw.integers(0, 256, ELEMENTS // 2, dtype=np.uint8)
    index = np.empty(ELEMENTS // 2, np.intp)
    pairs = draw.random(512, np.float32).view(np.uint64)
    values = np.empty(ELEMENTS // 2, np.uint64)
    floats = values.view(np.float32).reshape(-1, 32)
    bits = values.view(np.uint32)
    scales = draw.random((ELEMENTS // 32, 1), np.float32)
    spare, result = np.empty(ELEMENTS, np.uint32), np.empty(ELEMENTS, np.uint16)
    one, half, sixteen = (np.uint32(number) for number in (1, 0x7FFF, 16))

    def rounded() -> None:
        np.right_shift(bits, sixteen, out=spare)
        np.bitwise_and(spare, one, out=spare)
        np.add(spare, bits, out=spare)
        np.add(spare, half, out=spare)
        np.right_shift(spare, sixteen, out=spare)

    return {
        "a byte of two codes as an index": lambda: np.copyto(index, codes),
        "both numbers from a table": lambda: np.take(pairs, index, out=values, mode="clip"),
        "times the scale of their group": lambda: np.multiply(floats, scales, out=floats),
        "rounded to nearest even, five calls": rounded,
        "stored as 16 bits": lambda: np.copyto(result, spare, casting="unsafe"),
    }


def steps_of_mxfp4() -> Calls:
    """Return the steps of ELEMENTS numbers of MXFP4 that are turned, as gpt-oss stores them."""
    columns, rows = 2**13, ELEMENTS // 2**13
    draw = np.random.default_rng(0)
    stored = draw.integers(0, 2**16, (columns, rows // 4), np.uint16)
    turned = np.empty(stored.shape[::-1], np.uint16)
    scales = draw.integers(110, 125, columns, np.uint16) << 8
    places = np.empty((2, *turned.shape), np.uint16)
    index = np.empty(places.shape, np.intp)
    table = draw.integers(0, 2**32, 2**16, np.uint32)
    pairs = np.empty(places.shape, np.uint32)
    result = np.empty((rows // 4, 2, 2, columns), np.uint16)
    byte, eight, sixteen = np.uint16(255), np.uint16(8), np.uint32(16)

    def cut() -> None:
        np.bitwise_and(turned, byte, out=places[0])
        np.right_shift(turned, eight, out=places[1])
        np.bitwise_or(places, scales, out=places)

    def parted() -> None:
        np.copyto(result[:, :, 0].swapaxes(0, 1), pairs, casting="unsafe")
        np.right_shift(pairs, sixteen, out=pairs)
        np.copyto(result[:, :, 1].swapaxes(0, 1), pairs, casting="unsafe")

    return {
        "bytes of codes turned, in pairs": lambda: np.copyto(turned, stored.T),
        "each byte with its scale": cut,
        "both as an index": lambda: np.copyto(index, places),
        "two finished numbers from a table": lambda: np.take(table, index, out=pairs, mode="clip"),
        "stored in two rows": parted,
    }


def steps(passes: int) -> list[tuple[str, float]]:
    """Return what numpy takes for each step, and for all of a format: nanoseconds an element."""
    result, other = np.empty(ELEMENTS, np.uint16), np.zeros(ELEMENTS, np.uint16)
    found = []
    for name, make in (("int4", steps_of_int4), ("MXFP4, turned", steps_of_mxfp4)):
        taken = [(step, alone(call, passes)) for step, call in make().items()]
        found += [*taken, (f"all steps of {name}", sum(each for _, each in taken))]
        found.append((f"all steps of {name}, in each of two threads", together(make, passes)))
    return [*found, ("memcpy of the result", alone(lambda: np.copyto(result, other), passes))]


def alone(call: Callable[[], object], passes: int) -> float:
    """Return the nanoseconds an element of a call that makes ELEMENTS."""
    return best(call, passes * 20) / ELEMENTS * 1e9


def together(make: Callable[[], Calls], passes: int) -> float:
    """Return the nanoseconds an element that all steps take while another thread does the same."""
    calls = [list(make().values()) for _ in range(2)]

    def all_of(mine: list[Callable[[], object]]) -> float:
        return alone(lambda: [call() for call in mine], passes)

    with ThreadPoolExecutor(2) as threads:
        return max(threads.map(all_of, calls))


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

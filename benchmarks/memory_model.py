"""Compare the memory that plans project with what runs take, over random plans.

    memory_model.py --plans 200 --seed 0 [--most 300000] [--cgroup]

Each plan converts a sparse checkpoint of small experts in a process of its own, with a random
number of tensors, verb, format and options, and prints both figures; the peak is the process's
own VmHWM. Ends with 1 if a run took more than projected, or, above 100 MB, if more than 1.25 times
as much was projected as taken.

`--cgroup` runs each conversion again in a memory cgroup (version 1, which needs root) of exactly
the projection, rounded up to 16 MB; a run that is killed counts as one above.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CLOSE_ABOVE = 100 * 10**6
CLOSE = 1.25
CGROUPS = Path("/sys/fs/cgroup/memory")
ROUND = 16 * 10**6

VERBS = {
    "split": (True, ["split"]),
    "merge": (False, ["merge"]),
    "transpose": (False, ["convert", "--to", "fused-transposed"]),
    "copy": (False, ["convert", "--to", "per-expert", "--copy"]),
}
"""Whether the source is merged, and the words of the command."""
OPTIONS = [
    [],
    ["--verify"],
    ["--sha256"],
    ["--verify", "--sha256"],
    ["--format", "dcp"],
    ["--format", "dcp", "--verify"],
    ["--dtype", "fp32"],
    ["--max-shard-size", "200kB"],
]


def write_checkpoint(folder: Path, tensors: int, *, merged: bool, hidden: int) -> None:
    """Write a sparse checkpoint of about so many per-expert tensors, merged or not."""
    experts = min(384, max(2, tensors // 3))
    layers = max(1, tensors // (3 * experts))
    fields: dict[str, Any] = {}
    end = 0
    for layer in range(layers):
        prefix = f"model.layers.{layer}.mlp.experts."
        rows: dict[str, tuple[int, ...]] = {
            f"{prefix}gate_up_proj": (experts, 4, hidden),
            f"{prefix}down_proj": (experts, hidden, 2),
        }
        if not merged:
            rows = {
                f"{prefix}{expert}.{name}.weight": shape
                for expert in range(experts)
                for name, shape in (
                    ("gate_proj", (2, hidden)),
                    ("up_proj", (2, hidden)),
                    ("down_proj", (hidden, 2)),
                )
            }
        for name, shape in rows.items():
            nbytes = 2 * math.prod(shape)
            fields[name] = {"dtype": "BF16", "shape": shape, "data_offsets": (end, end + nbytes)}
            end += nbytes
    header = json.dumps(fields).encode()
    folder.mkdir()
    with (folder / "model.safetensors").open("xb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
    config = {"model_type": "qwen3_moe", "num_experts": experts}
    (folder / "config.json").write_text(json.dumps(config))


def convert(
    folder: Path, words: list[str], enter: Callable[[], object] | None = None
) -> dict[str, Any] | None:
    """Run a conversion in a process of its own; None if it was killed."""
    command = [sys.executable, "-m", "streamconv", words[0], "source", "out", *words[1:]]
    done = subprocess.run(
        [*command, "--json", "--overwrite"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=enter,
    )
    if done.returncode < 0:
        return None
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@contextmanager
def cgroup(limit: int) -> Iterator[Callable[[], object]]:
    """Make a memory cgroup; yields the function that moves a new process into it."""
    group = CGROUPS / f"memory-model-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit))
        yield lambda: (group / "cgroup.procs").write_text("0")
    finally:
        group.rmdir()


def main() -> None:
    """Print a line for each plan, and the verdict."""
    parser = argparse.ArgumentParser(description="Compare projected memory with measured memory.")
    parser.add_argument("--plans", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=300_000, help="tensors in a plan, at most")
    parser.add_argument("--cgroup", action="store_true", help="again, in a cgroup of that size")
    args = parser.parse_args()
    numbers = random.Random(args.seed)
    wrong = 0
    for _ in range(args.plans):
        tensors = int(10 ** numbers.uniform(1, math.log10(args.most)))
        verb = numbers.choice(sorted(VERBS))
        merged, words = VERBS[verb]
        words = [*words, *numbers.choice(OPTIONS)]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            hidden = numbers.choice([3, 64, 1024]) if tensors < 20_000 else 3
            write_checkpoint(folder / "source", tensors, merged=merged, hidden=hidden)
            result = convert(folder, words)
            if result is None:
                raise SystemExit("a run was killed without a limit")
            projected, measured = result["projected_peak_bytes"], result["peak_memory_bytes"]
            ratio = projected / measured
            verdict = "ABOVE" if ratio < 1 else ""
            if projected > CLOSE_ABOVE and ratio > CLOSE:
                verdict = "FAR"
            if args.cgroup:
                with cgroup(-(-projected // ROUND) * ROUND) as enter:
                    verdict += " KILLED" if convert(folder, words, enter) is None else " survived"
        wrong += verdict not in ("", " survived")
        print(
            f"{tensors:>7} tensors  {projected / 1e6:6.1f} MB projected  "
            f"{measured / 1e6:6.1f} MB measured  {ratio:4.2f}  {' '.join(words)}  {verdict}",
            flush=True,
        )
    print(f"{wrong} of {args.plans} wrong")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()

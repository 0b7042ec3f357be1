"""Runs random conversions, and holds the memory that each takes against what its plan projects.

    python scripts/random_memory.py [--runs 200] [--seed 1] [--state FILE] [--cgroups 20]

Sources have 10 to 300,000 tensors, expert by expert, or as many as `--tensors` says, and are in a
folder, a DCP of streamconv or of torch, or a hub on loopback; layouts, options, workers and formats
are drawn by the seed and the number of the run. Every run is a process of its own. A run is wrong
if it takes more than projected, or if it takes more than 100 MB and the projection is more than
1.25 of that. With `--cgroups N` (as root, Linux), N more runs happen in a memory cgroup of the
projection rounded up to 16 MB, and have to survive.

One line for each run; ends with 1 if one is wrong. With `--state FILE`, a later call goes on.
"""

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))

from hub_server import Hub, serving

LARGE_BYTES, LARGE_RATIO = 100 * 10**6, 1.25
ROUNDING = 16 * 2**20
CGROUPS = Path("/sys/fs/cgroup/memory")
PLACES = ("folder", "folder", "dcp", "torch", "hub")
LAYOUTS = ("per-expert", "fused", "fused-transposed", "stacked", "transformers")
PLAN_REFUSED = 4
"""The exit code."""


class NotPlanned(Exception):
    """What was drawn has no plan, such as packed codes that would have to be transposed."""


@dataclass(frozen=True)
class Run:
    """A conversion: the source to make, and the command line."""

    number: int
    layers: int
    experts: int
    hidden: int
    width: int
    dtype: str
    place: str
    """Of the source: folder, dcp, torch or hub."""
    stored: str
    """Its layout."""
    words: tuple[str, ...]
    """What is asked for."""

    @property
    def tensors(self) -> int:
        """The number of tensors of the model, expert by expert."""
        return self.layers * (3 * self.experts + 1)


def drawn(seed: int, number: int, least: int, most: int, places: tuple[str, ...] = PLACES) -> Run:
    """Draw a run by its number, whose source has so many tensors and is in one of these places."""
    draw = random.Random(f"{seed} {number}")
    tensors = round(math.exp(draw.uniform(math.log(least), math.log(most))))
    experts = min(draw.choice((2, 8, 64, 128, 384)), max(tensors // 3, 2))
    layers = max(tensors // (3 * experts + 1), 1)
    small = layers * experts > 300
    hidden, width = (8, 4) if small else draw.choice(((64, 32), (1024, 512), (2048, 768)))
    dtype = draw.choice(("BF16", "BF16", "F32"))
    place = draw.choice(places)
    stored = draw.choice(LAYOUTS[:3])
    to = draw.choice([layout for layout in LAYOUTS if layout != stored])
    verb = {"transformers": "merge", "per-expert": "split"}.get(to, "convert")
    words = [verb, "--from", stored] if verb == "split" else [verb, "--to", to, "--from", stored]
    if (stored, to) == ("fused", "transformers"):  # the same, so that there may be nothing to do
        words.append("--copy")
    target = draw.choice(("safetensors", "safetensors", "dcp"))
    if target == "dcp":
        words += ["--format", "dcp"]
    else:
        words += draw.choice(([], ["--max-shard-size", draw.choice(("1MB", "20MB", "1GB"))]))
    words += draw.choice(([], ["--verify"], ["--sha256"], ["--verify", "--sha256"]))
    words += draw.choice(([], ["-j", str(draw.randint(1, 8))]))
    words += draw.choice(
        ([], [], [], ["--dtype", "fp32"], ["--dtype", "fp16"], quantized(draw, width))
    )
    return Run(number, layers, experts, hidden, width, dtype, place, stored, tuple(words))


def quantized(draw: random.Random, width: int) -> list[str]:
    """Draw a number format whose groups or blocks fit experts of such a width."""
    fitting = {"fp8-channel": 1, "int4-g32": 32, "mxfp4": 32, "fp8-block": 128}
    return ["--quantize", draw.choice([name for name, size in fitting.items() if width >= size])]


def experts_of(run: Run) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of each tensor of the experts of a layer."""
    count, hidden, width = run.experts, run.hidden, run.width
    if run.stored == "per-expert":
        for expert in range(count):
            yield f"experts.{expert}.gate_proj.weight", (width, hidden)
            yield f"experts.{expert}.up_proj.weight", (width, hidden)
            yield f"experts.{expert}.down_proj.weight", (hidden, width)
    elif run.stored == "fused":
        yield "experts.gate_up_proj", (count, 2 * width, hidden)
        yield "experts.down_proj", (count, hidden, width)
    else:
        yield "experts.gate_up_proj", (count, hidden, 2 * width)
        yield "experts.down_proj", (count, width, hidden)


def tensors_of(run: Run) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of each tensor."""
    for layer in range(run.layers):
        stem = f"model.layers.{layer}.mlp"
        yield f"{stem}.gate.weight", (run.experts, run.hidden)
        for name, shape in experts_of(run):
            yield f"{stem}.{name}", shape


def write_by_torch(run: Run, folder: Path) -> None:
    """Let torch write the checkpoint as a DCP; all values are zeros."""
    import torch
    import torch.distributed.checkpoint as dcp

    dtype = torch.bfloat16 if run.dtype == "BF16" else torch.float32
    state = {name: torch.zeros(shape, dtype=dtype) for name, shape in tensors_of(run)}
    with warnings.catch_warnings(action="ignore"):
        dcp.save(state, checkpoint_id=folder, no_dist=True)


def write_source(run: Run, folder: Path) -> None:
    """Write the checkpoint in its layout, every other one in several files with an index.

    All values are zeros that take no disk.
    """
    folder.mkdir(parents=True)
    tensors = [*tensors_of(run)]
    step = -(-len(tensors) // 8) if run.number % 2 else len(tensors)
    count = -(-len(tensors) // step)
    weight_map = {}
    for number in range(count):
        file = f"model-{number + 1:05}-of-{count:05}.safetensors"
        held = tensors[number * step : (number + 1) * step]
        write_shard(run.dtype, held, folder / file)
        weight_map |= {name: file for name, _ in held}
    if count > 1:
        index = json.dumps({"metadata": {}, "weight_map": weight_map})
        (folder / "model.safetensors.index.json").write_text(index)
    config = {"model_type": "qwen3_moe", "num_experts": run.experts}
    (folder / "config.json").write_text(json.dumps(config))


def write_shard(dtype: str, tensors: list[tuple[str, tuple[int, ...]]], path: Path) -> None:
    """Write a file of safetensors."""
    itemsize = 2 if dtype == "BF16" else 4
    fields: dict[str, object] = {}
    end = 0
    for name, shape in tensors:
        begin, end = end, end + math.prod(shape) * itemsize
        fields[name] = {"dtype": dtype, "shape": shape, "data_offsets": (begin, end)}
    header = json.dumps(fields).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)


def program(words: list[str], env: dict[str, str], cgroup: Path | None = None) -> str:
    """Run the program; returns its standard output.

    Raises NotPlanned if it refuses the plan, SystemExit if it fails otherwise.
    """

    def join() -> None:
        if cgroup is not None:
            (cgroup / "cgroup.procs").write_text(str(os.getpid()))

    done = subprocess.run(
        [sys.executable, "-m", "streamconv", *words, "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        preexec_fn=join,
        check=False,
    )
    if done.returncode == PLAN_REFUSED:
        raise NotPlanned
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


@contextmanager
def ready_source(run: Run, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Make the source of a run; gives its location, and the environment that reads it."""
    stored = folder / "made"
    if run.place == "torch":
        write_by_torch(run, stored)
    else:
        write_source(run, stored)
    if run.place == "dcp":
        words = ["convert", str(stored), str(folder / "stored"), "--format", "dcp"]
        program([*words, "--from", run.stored, "--to", run.stored], {})
        stored = folder / "stored"
    if run.place != "hub":
        yield str(stored), {}
        return
    with serving(Hub({"org/model": stored})) as hub:
        yield "hf://org/model", {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home")}


@contextmanager
def limited(nbytes: int) -> Iterator[Path]:
    """Make a memory cgroup of so many bytes."""
    group = CGROUPS / f"streamconv-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(nbytes))
        yield group
    finally:
        group.rmdir()


def measured(run: Run, folder: Path, *, in_cgroup: bool) -> tuple[int, int]:
    """Run it; returns the bytes that it took, and those that were projected."""
    with ready_source(run, folder) as (location, env):
        verb, *options = run.words
        words = [verb, location, str(folder / "out"), *options]
        if not in_cgroup:
            result = json.loads(program(words, env))
            return result["peak_memory_bytes"], result["projected_peak_bytes"]
        plan = json.loads(program([*words, "--dry-run"], env))
        projected = plan["memory"]["projected_peak_bytes"]
        size = -(-projected // ROUNDING) * ROUNDING
        with limited(size) as group:
            # by default, a tenth of what is free is left to others
            limit = ["-j", str(plan["memory"]["jobs"]), "--max-memory", f"{size}B"]
            result = json.loads(program([*words, *limit], env, group))
        return result["peak_memory_bytes"], projected


def wrong(took: int, projected: int) -> str:
    """Say what is wrong with a projection; empty for nothing."""
    if took > projected:
        return "more than projected"
    if took > LARGE_BYTES and projected > LARGE_RATIO * took:
        return "projected too high"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="the number of the first run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--tensors", type=int, nargs=2, default=(10, 300_000), metavar=("LEAST", "MOST")
    )
    parser.add_argument("--places", nargs="+", default=PLACES, choices=sorted({*PLACES}))
    parser.add_argument("--cgroups", type=int, default=0, help="runs in a cgroup of their own")
    parser.add_argument("--state", type=Path, help="go on from what this file has, and add to it")
    chosen = parser.parse_args()
    lines = chosen.state.read_text().splitlines() if chosen.state and chosen.state.exists() else []
    known = {json.loads(line)[0] for line in lines}
    numbers = range(chosen.first, chosen.first + chosen.runs + chosen.cgroups)
    failed = sum(bool(json.loads(line)[-1]) for line in lines)
    for number in numbers:
        if number in known:
            continue
        run = drawn(chosen.seed, number, *chosen.tensors, tuple(chosen.places))
        folder = Path(tempfile.mkdtemp(prefix="streamconv-memory-"))
        try:
            in_cgroup = number >= numbers[0] + chosen.runs
            took, projected = measured(run, folder, in_cgroup=in_cgroup)
        except NotPlanned:
            print(f"{number:3}  refused  {' '.join(run.words)}")
            continue
        finally:
            shutil.rmtree(folder)
        fault = wrong(took, projected)
        failed += bool(fault)
        shown = f"{run.tensors:7} tensors  {run.stored} {run.place}  {' '.join(run.words)}"
        print(f"{number:3}  {took / 1e6:6.1f} of {projected / 1e6:6.1f} MB  {fault}  {shown}")
        if chosen.state:
            with chosen.state.open("a") as file:
                file.write(json.dumps([number, took, projected, fault]) + "\n")
    print(f"{failed} wrong of {len(numbers)}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

"""Changes random bytes of a DCP, and compares what verification says with what torch reads.

    python scripts/fuzz_dcp.py [--changes 13000] [--seed 1]

A small DCP is changed in one place each time, in `.metadata` or in a file of tensors: a bit, a
byte, or a few. torch reads the result, and streamconv verifies it, against its source and alone.
If torch reads other tensors or values, or none, and either of both finds nothing, that is printed,
and the script ends with code 1. torch works in a child process: what kills it counts as not read.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "helpers"))

SPARE_BYTES = 2 * 2**30
"""What torch may allocate for a DCP of kilobytes."""
STRETCH = 500
"""So many changes are made in a child."""


def changed(raw: bytes, draw: random.Random) -> bytes:
    """One bit, one byte, or up to four bytes in a row that are others."""
    new = bytearray(raw)
    at = draw.randrange(len(raw))
    kind = draw.randrange(3)
    if kind == 0:
        new[at] ^= 1 << draw.randrange(8)
    else:
        for place in range(at, min(at + (1 if kind == 1 else draw.randint(2, 4)), len(raw))):
            new[place] = draw.randrange(256)
    return bytes(new)


def read_by_torch(folder: Path) -> Any:
    """Everything that torch makes of a DCP, in a form that can be compared; an error as text."""
    import torch
    from dcp_folders import stock

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            shape, dtype = tuple(value.shape), str(value.dtype)
            value = value.detach().contiguous().flatten()
            return shape, dtype, bytes(value.view(torch.uint8).numpy()) if value.numel() else b""
        if isinstance(value, dict):
            return {str(key): plain(inner) for key, inner in value.items()}
        return value.getvalue() if hasattr(value, "getvalue") else repr(value)

    try:
        return plain(stock(folder))
    except BaseException as error:
        return f"{type(error).__name__}"


def verdicts(source: Path, folder: Path) -> tuple[bool, bool]:
    """Return True twice if the DCP passes: next to its source, and alone."""
    import streamconv
    from streamconv.errors import BadCheckpoint

    def passes(*paths: Path) -> bool:
        try:
            return streamconv.verify(*paths).ok
        except BadCheckpoint:
            return False

    return passes(source, folder), passes(folder)


@dataclass(frozen=True, slots=True)
class Task:
    """A DCP to change: number by number, each change drawn from the seed and its number."""

    source: Path
    """The checkpoint that it was made of."""
    folder: Path
    """The DCP. Every change is undone."""
    seed: int
    alone: bool = True
    """Whether it is verified alone as well. If not, that counts as refused."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a change."""

    change: str
    is_read: bool
    """Whether torch reads all that it read before."""
    by_source: bool
    """True if verification with the source finds nothing."""
    by_itself: bool
    """Whether verification without the source finds nothing."""

    @property
    def is_missed(self) -> bool:
        """True if torch reads otherwise, or not at all, and a verification finds nothing."""
        return not self.is_read and (self.by_source or self.by_itself)


def try_changes(task: Task, numbers: Iterable[int], asks_torch: bool = True) -> Iterator[Outcome]:
    """Make the changes of these numbers, one after the other."""
    files = [
        path for path in sorted(task.folder.rglob("*")) if path.is_file() and path.stat().st_size
    ]
    files = [path for path in files if path.name == ".metadata" or path.suffix == ".distcp"]
    true = read_by_torch(task.folder) if asks_torch else {}
    assert isinstance(true, dict), true
    assert verdicts(task.source, task.folder)[0], "without a change, nothing has to be found"
    for number in numbers:
        path = files[number % len(files)]
        raw = path.read_bytes()
        new = changed(raw, random.Random(f"{task.seed} {number}"))
        where = next((i for i, (a, b) in enumerate(zip(raw, new, strict=True)) if a != b), 0)
        old = raw[where : where + 4].hex()
        change = f"{path.name} byte {where}: {old} became {new[where : where + 4].hex()}"
        path.write_bytes(new)
        try:
            is_read = asks_torch and read_by_torch(task.folder) == true
            by_source, by_itself = verdicts(task.source, task.folder)
        finally:
            path.write_bytes(raw)
        yield Outcome(change, is_read, by_source, by_itself and task.alone)


def try_in_children(task: Task, first: int, changes: int) -> Iterator[Outcome]:
    """Make that many changes in child processes. If one dies, its change counts as not read."""
    number = first
    while number < first + changes:
        stretch = range(number, min(number + STRETCH, first + changes))
        with tempfile.TemporaryDirectory() as place:
            copy = replace(task, folder=Path(shutil.copytree(task.folder, Path(place) / "dcp")))
            ours, theirs = os.pipe()
            pid = os.fork()
            if not pid:
                _work(copy, stretch, theirs)
            os.close(theirs)
            try:
                with os.fdopen(ours) as pipe:
                    for line in pipe:
                        number += 1
                        yield Outcome(**json.loads(line))
            finally:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            if number < stretch.stop:
                # the copy may have been left changed
                fresh = replace(task, folder=Path(shutil.copytree(task.folder, f"{place}/again")))
                yield from try_changes(fresh, [number], asks_torch=False)
                number += 1


def _work(task: Task, numbers: Iterable[int], pipe: int) -> None:
    """Be the child: make changes with bounded memory, tell what came of each, and end."""
    try:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + SPARE_BYTES, now + SPARE_BYTES))
        with os.fdopen(pipe, "w") as lines:
            for outcome in try_changes(task, numbers):
                lines.write(json.dumps(asdict(outcome)) + "\n")
                lines.flush()
    finally:
        os._exit(0)


def make(folder: Path) -> tuple[Path, Path]:
    """Make a small checkpoint, and of it the DCP of a preset, which holds values as well."""
    from folders import qwen_tensors, write_checkpoint

    import streamconv

    tensors = qwen_tensors(experts=4, hidden=6, intermediate=4)
    config = {"model_type": "qwen3_moe", "num_experts": 4}
    source = write_checkpoint(folder / "source", {"a.safetensors": tensors}, config)
    streamconv.convert(source, folder / "run", to="fused", preset="mindspeed")
    return source, next((folder / "run").rglob(".metadata")).parent


def saved_by_torch(made: Path, folder: Path) -> Path:
    """Save the tensors of a DCP as torch does. Only its archives have digests."""
    import torch.distributed.checkpoint as dcp
    from dcp_folders import stock

    held = stock(made)["model"]
    tensors = {key.removeprefix("model."): value for key, value in held.items()}
    dcp.save(tensors, checkpoint_id=folder, no_dist=True)
    return folder


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Hold verification of a DCP against torch.")
    parser.add_argument("--changes", type=int, default=13_000, help="how many (13,000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first one (0)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--by-torch", action="store_true", help="change a DCP that torch wrote")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        source, folder = make(Path(place))
        if args.by_torch:
            folder = saved_by_torch(folder, Path(place) / "saved")
        task = Task(source, folder, args.seed, alone=not args.by_torch)
        end = time.monotonic() + args.seconds
        for outcome in try_in_children(task, args.first, args.changes):
            counts["changes"] += 1
            counts["torch reads otherwise or not at all"] += not outcome.is_read
            counts["refused with the source"] += not outcome.by_source
            counts["refused alone"] += not outcome.by_itself
            counts["missed"] += outcome.is_missed
            if outcome.is_missed:
                print("missed:", outcome, flush=True)
            if time.monotonic() > end:
                break
    print(dict(counts))
    sys.exit(bool(counts["missed"]))


if __name__ == "__main__":
    main()

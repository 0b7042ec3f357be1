"""Lets every system call of a conversion fail, one after the other, and checks what comes of it.

`strace` injects the fault into the program as it is: into the first call of each kind on a path,
the second, and so on until there is none left, with each error and with SIGKILL. Paths are those
of source and target only, as an interpreter opens and reads files of its own. A conversion has to
end right, or to leave no result, and then `--resume` has to end in the very tree of an undisturbed
one. The same for `finish`, parts and options, for every call that they make otherwise, with one
error and SIGKILL. One line for each kind; ends with 1 if anything else comes out.

The whole sweep takes about an hour. With `--state FILE` it can be stopped at any time, or with
`--seconds`, and goes on from there: the file has a line for each fault that was injected. The calls
that change something on disk come first, then errors of those that read, then kills at them: these
leave what a kill at the next call that changes something leaves. In each of the three, the order is
random, so that what has been tried at any time is a sample by the seed.
"""

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))

from folders import qwen_tensors, tree, two_shards, write_checkpoint
from forked_runs import import_all, run_forked

import streamconv
from streamconv.sinks.run_paths import LOCK_SUFFIX

CALLS = {
    "preadv,preadv2": ("EIO", "EINTR"),
    "pwrite64": ("ENOSPC", "EDQUOT", "EIO", "EINTR"),
    "sync_file_range": ("ENOSPC", "EDQUOT", "EIO", "ENOSYS"),
    "write": ("ENOSPC", "EDQUOT", "EIO", "EINTR"),
    "openat": ("EIO", "EACCES", "ENOSPC", "EMFILE", "EINTR"),
    "close": ("EIO", "ENOSPC", "EINTR"),
    "newfstatat": ("EIO", "EACCES"),
    "getdents64": ("EIO",),
    "fallocate": ("ENOSPC", "EDQUOT", "EOPNOTSUPP"),
    "ftruncate": ("EIO",),
    "fsync": ("EIO", "ENOSPC"),
    "mkdir,mkdirat": ("ENOSPC", "EACCES"),
    "rename,renameat": ("EIO", "EACCES", "EXDEV"),
    "unlink,unlinkat": ("EIO", "EACCES"),
    "flock": ("ENOLCK", "EIO"),
}
"""The calls that change or read files, and the errors of each; SIGKILL comes with all of them."""
READS = ("preadv,preadv2", "openat", "close", "newfstatat", "getdents64")
"""Those after which the disk is mostly what it was."""
RIGHT_CODES = {"ENOSPC": 7, "EDQUOT": 7}
STRACE = ("strace", "-f", "-qq")
KILL_LATE = ("-e", "trace=pwrite64", "-e", "inject=pwrite64:signal=KILL:when=3")
"""Kills a run that has finished some shards."""

Call = tuple[str, str, int]
"""The name of a system call, a path, and its number on that path."""
Fault = tuple[str, str, str, int, str]
"""A way to convert, a call with its path below the folder in use, and an error or KILL."""
WAYS = {
    "convert": [],
    "finish": [],
    "--part": ["--part=2/2"],
    "--resume": ["--resume"],
    "--overwrite": ["--overwrite"],
    "--verify": ["--verify"],
    "dcp": ["--format=dcp"],
    "preset": ["--preset=mindspeed"],
}
"""Options of each way to convert. All after the first are swept for what they do otherwise."""


@dataclass(frozen=True)
class Work:
    """A way to convert: what is there before, what is run, and how to go on after a failure."""

    name: str
    src: Path

    def prepare(self, dst: Path) -> None:
        """Make what this way finds at the target."""
        if self.name in ("finish", "--part"):
            for part in ("--part=1/2", "--part=2/2")[: 2 if self.name == "finish" else 1]:
                self._convert(dst, part)
        if self.name == "--resume":
            self._convert(dst, "--part=1/1", strace=(*STRACE, "-o", "/dev/null", *KILL_LATE))
        if self.name == "--overwrite":
            write_checkpoint(dst, two_shards(qwen_tensors(seed=7)), {"model_type": "qwen3_moe"})

    def run(self, dst: Path, strace: tuple[str, ...] = ()) -> int:
        """Run it; returns its exit code, negative for a signal. A part is finished after it."""
        if self.name == "finish":
            return call(["finish", str(dst)], strace)
        code = self._convert(dst, *WAYS[self.name], strace=strace)
        return code or (call(["finish", str(dst)]) if self.name == "--part" else 0)

    def go_on(self, dst: Path) -> int:
        """Run it again, as the documents say; returns its exit code."""
        if self.name == "finish":
            return call(["finish", str(dst)])
        if self.name == "--part":
            return self.run(dst)
        more = ["--overwrite"] if dst.exists() or self.name == "--overwrite" else []
        return self._convert(dst, *WAYS[self.name], *more, "--resume")

    def _convert(self, dst: Path, *more: str, strace: tuple[str, ...] = ()) -> int:
        words = ["--max-shard-size=300B", "-j1", *more]
        verb = ["merge"] if self.name == "preset" else ["convert", "--to=fused-transposed"]
        return call([*verb, str(self.src), str(dst), *words], strace)


class State:
    """What came of each fault, kept in a file if there is one, so that a sweep can go on."""

    def __init__(self, path: Path | None, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._path = path
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        self._known: dict[Fault, str | None] = {
            tuple(key): reason for key, reason in map(json.loads, lines)
        }

    def is_over(self) -> bool:
        """Return True if the time is over."""
        return time.monotonic() > self._end

    def outcome(self, fault: Fault) -> str | None:
        """Return what was wrong; empty for nothing, or say that it was not made or not tried."""
        reason = self._known.get(fault, "to be tried")
        return "not made" if reason is None else reason

    def add(self, fault: Fault, reason: str | None) -> None:
        """Keep what came of a fault: what was wrong, or None if the call was not made."""
        self._known[fault] = reason
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps([fault, reason]) + "\n")


def call(words: list[str], strace: tuple[str, ...] = ()) -> int:
    """Run the program; returns its exit code, negative for a signal."""
    code, printed = run_forked([*words, "-q"], strace)
    if "Traceback" in printed or code in (1, 70):
        raise SystemExit(f"{words}: exit code {code}\n{printed}")
    return code


def wrong(work: Work, dst: Path, right: dict[str, object], code: int, expected: set[int]) -> str:
    """Say what is wrong after a run that ended with `code`, and after going on; or nothing."""
    if code not in expected:
        return f"exit code {code}"
    is_there = dst.exists()
    is_right = is_there and tree(dst) == right
    if is_there and not is_right and work.name != "--overwrite":
        return "another result"
    if code == 0 and not is_right:
        return "no result"
    if code != 0:
        code = work.go_on(dst)
        # one that was killed after all its work has nothing to finish
        if code == 6 and is_right and work.name in ("finish", "--part"):
            code = 0
    if code != 0 or tree(dst) != right:
        return f"gone on: exit code {code}, or another result"
    # a lock that could not be removed holds nothing, and goes with the next run
    left = [p.name for p in dst.parent.iterdir() if p != dst and LOCK_SUFFIX not in p.name]
    return f"{', '.join(left)} left" if left else ""


def paths_of(line: str, place: Path) -> set[str]:
    """Return the paths below `place` that a line of strace is about.

    A file of a run is a name in an open folder: `unlinkat(5</out>, "dst.streamconv-lock-1", 0)`.
    """
    whole = re.findall(rf'["<]({re.escape(str(place))}/[^">]*)[">]', line)
    named = re.findall(rf'at\([^"]*<({re.escape(str(place))}[^>]*)>, "([^"/]+)"', line)
    return {*whole, *(f"{folder}/{name}" for folder, name in named)}


def met(work: Work, place: Path) -> Counter[tuple[str, str]]:
    """Count how often each call is about each path below `place`; nothing is left.

    Take the thread that makes each call most often, because strace counts per thread.
    """
    log, dst = place / "log", place / "out" / "dst"
    shutil.copytree(place / work.name, dst.parent)
    trace = (*STRACE, "-y", "-o", str(log), "-e", f"trace={','.join(CALLS)}")
    if work.run(dst, trace):
        raise SystemExit(f"the undisturbed {work.name} fails under strace")
    shutil.rmtree(dst.parent)
    found: Counter[tuple[str, str, str]] = Counter()
    for line in log.read_text().splitlines():
        call = re.match(r"(\d+) +(\w+)\(", line)
        for path in paths_of(line, place):
            if call:
                found[call[1], call[2], path] += 1
    most: Counter[tuple[str, str]] = Counter()
    for (_, name, path), count in found.items():
        most[name, path] = max(most[name, path], count)
    return most


def try_fault(
    work: Work, place: Path, right: dict[str, object], struck: Call, how: str
) -> str | None:
    """Let a call fail, and say what is wrong; empty for nothing, None if it was not made."""
    fault = f"signal={how}" if how == "KILL" else f"error={how}"
    log, dst = place / "log", place / "out" / "dst"
    name, path, number = struck
    shutil.copytree(place / work.name, dst.parent)
    inject = f"inject={name}:{fault}:when={number}"
    about = ("-P", path, "-P", Path(path).name)
    code = work.run(dst, (*STRACE, *about, "-o", str(log), "-e", f"trace={name}", "-e", inject))
    # a file of the source may share its name with one of the result, which is struck, too
    of_source = {8} if Path(path).is_relative_to(work.src) else set()
    expected = {-9} if how == "KILL" else {0, RIGHT_CODES.get(how, 8), *of_source}
    is_struck = "INJECTED" in log.read_text() or code == -9
    reason = wrong(work, dst, right, code, expected) if is_struck else None
    shutil.rmtree(dst.parent)
    return reason


def undisturbed(work: Work, place: Path) -> dict[str, object]:
    """Return the tree that a way of converting ends in."""
    dst = place / "right" / "dst"
    shutil.copytree(place / work.name, dst.parent)
    if work.run(dst):
        raise SystemExit(f"the undisturbed {work.name} fails")
    right = tree(dst)
    shutil.rmtree(dst.parent)
    return right


def faults_of(
    work: Work, place: Path, groups: list[str], known: set[Call], *, kills: bool
) -> list[Fault]:
    """Return the faults of the calls that are not known yet, and add these calls.

    Args:
        work: The way of converting; what it finds at the target is made.
        place: The folder on the file system to use.
        groups: The groups of calls.
        known: Calls that another way has made already.
        kills: True for kills alone.
    """
    ready = place / work.name
    ready.mkdir()
    work.prepare(ready / "dst")
    counts = met(work, place)
    new = {(*key, n) for key, count in counts.items() for n in range(1, count + 1)} - known
    known |= new
    found = []
    for group in groups:
        errors = () if kills else CALLS[group][: None if work.name == "convert" else 1]
        for name, path, number in sorted(call for call in new if call[0] in group.split(",")):
            below = str(Path(path).relative_to(place))
            found += [(work.name, name, below, number, how) for how in (*errors, "KILL")]
    return found


def in_order(faults: list[Fault], seed: int) -> list[Fault]:
    """Return the faults in the order in which they are tried; see the top of this file."""
    reads = {name for group in READS for name in group.split(",")}
    shuffled = random.Random(seed).sample(faults, len(faults))
    return sorted(shuffled, key=lambda fault: (fault[1] in reads) * (1 + (fault[4] == "KILL")))


def report(faults: list[Fault], state: State) -> int:
    """Print a line for each way, group of calls, and error; returns how many went wrong."""
    rows: dict[tuple[str, str, str], Counter[str]] = {}
    wrong_ones = 0
    for fault in faults:
        way, name, _, _, how = fault
        group = next(group for group in CALLS if name in group.split(","))
        outcome = state.outcome(fault) or "right"
        if outcome not in ("right", "not made", "to be tried"):
            print(f"    {fault}: {outcome}")
            outcome, wrong_ones = "wrong", wrong_ones + 1
        rows.setdefault((way, group, how), Counter())[outcome] += 1
    for (way, group, how), outcomes in rows.items():
        shown = ", ".join(f"{count} {what}" for what, count in sorted(outcomes.items()))
        print(f"{way:12} {group:17} {how:10} {shown}")
    total = sum(rows.values(), Counter())
    print(", ".join(f"{count} {what}" for what, count in sorted(total.items())))
    return wrong_ones


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", nargs="*", default=list(CALLS), choices=CALLS)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=WAYS)
    parser.add_argument("--kills", action="store_true", help="SIGKILL alone, no errors")
    parser.add_argument("--folder", help="a folder on the file system to use, such as /dev/shm")
    parser.add_argument("--state", type=Path, help="go on from what this file has, and add to it")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--seed", type=int, default=1, help="of the order (1)")
    chosen = parser.parse_args()
    import_all()
    state = State(chosen.state, chosen.seconds)
    with tempfile.TemporaryDirectory(prefix="streamconv-inject-", dir=chosen.folder) as folder:
        place = Path(folder)
        src = write_checkpoint(
            place / "src", two_shards(qwen_tensors()), {"model_type": "qwen3_moe"}
        )
        # every run after this one has what is made on first use
        streamconv.convert(src, place / "first", to="transformers", preset="mindspeed", verify=True)
        shutil.rmtree(place / "first")
        source, known = tree(src), set[Call]()
        faults: list[Fault] = []
        for way in chosen.ways:
            faults += faults_of(Work(way, src), place, chosen.calls, known, kills=chosen.kills)
        works = {way: Work(way, src) for way in chosen.ways}
        right = {way: undisturbed(work, place) for way, work in works.items()}
        for fault in in_order(faults, chosen.seed):
            way, name, below, number, how = fault
            if state.is_over():
                break
            if state.outcome(fault) == "to be tried":
                call_ = (name, str(place / below), number)
                state.add(fault, try_fault(works[way], place, right[way], call_, how))
        failed = report(faults, state)
        if tree(src) != source:
            raise SystemExit("the source has changed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

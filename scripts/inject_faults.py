"""Lets every system call of a conversion fail, one after the other, and checks what comes of it.

`strace` injects the fault into the program as it is: into the first call of each kind on a path,
the second, and so on until there is none left, with each error and with SIGKILL. Paths are those
of source and target only, as an interpreter opens and reads files of its own. A conversion has to
end right, or to leave no result, and then `--resume` has to end in the very tree of an undisturbed
one. The same for `finish`, parts and options, for every call that they make otherwise, with one
error and SIGKILL. One line for each kind; ends with 1 if anything else comes out.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))

from folders import qwen_tensors, tree, two_shards, write_checkpoint

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
RIGHT_CODES = {"ENOSPC": 7, "EDQUOT": 7}
STRACE = ("strace", "-f", "-qq")
KILL_LATE = ("-e", "trace=pwrite64", "-e", "inject=pwrite64:signal=KILL:when=3")
"""Kills a run that has finished some shards."""
QUICK = "--seccomp-bpf"
"""Lets all other calls pass at full speed; with it, strace injects errors but no signals."""


Call = tuple[str, str, int]
"""The name of a system call, a path, and its number on that path."""
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
        words = ["--max-shard-size=300", "-j1", *more]
        verb = ["merge"] if self.name == "preset" else ["convert", "--to=fused-transposed"]
        return call([*verb, str(self.src), str(dst), *words], strace)


def call(words: list[str], strace: tuple[str, ...] = ()) -> int:
    """Run the program; returns its exit code, negative for a signal."""
    done = subprocess.run(
        [*strace, sys.executable, "-m", "streamconv", *words, "-q"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    if "Traceback" in done.stderr:
        raise SystemExit(done.stderr)
    return 128 - done.returncode if done.returncode == 128 + 9 else done.returncode


def wrong(work: Work, dst: Path, right: dict[str, object], code: int, expected: set[int]) -> str:
    """Say what is wrong after a run that ended with `code`, and after going on; or nothing."""
    if code not in expected:
        return f"exit code {code}"
    stands = dst.exists()
    is_right = stands and tree(dst) == right
    if stands and not is_right and work.name != "--overwrite":
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
    named = re.findall(rf'<({re.escape(str(place))}[^>]*)>, "([^"/]+)"', line)
    return {*whole, *(f"{folder}/{name}" for folder, name in named)}


def met(work: Work, place: Path) -> Counter[tuple[str, str]]:
    """Count how often each call is about each path below `place`; nothing is left.

    In the thread in which that is most often the case, as strace counts for each thread.
    """
    log, dst = place / "log", place / "out" / "dst"
    shutil.copytree(place / "ready", dst.parent)
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


def sweep(
    work: Work, place: Path, right: dict[str, object], calls: list[tuple[str, str, int]], how: str
) -> Iterator[str]:
    """Yield what is wrong, for each of these calls in turn: its name, path, and number on it."""
    fault = f"signal={how}" if how == "KILL" else f"error={how}"
    log, dst = place / "log", place / "out" / "dst"
    for call, path, number in calls:
        shutil.copytree(place / "ready", dst.parent)
        inject = f"inject={call}:{fault}:when={number}"
        quick = () if how == "KILL" else (QUICK,)
        about = ("-P", path, "-P", Path(path).name)
        code = work.run(
            dst, (*STRACE, *quick, *about, "-o", str(log), "-e", f"trace={call}", "-e", inject)
        )
        of_source = Path(path).is_relative_to(work.src)
        failed = 8 if of_source else RIGHT_CODES.get(how, 8)
        expected = {-9} if how == "KILL" else {0, failed}
        struck = "INJECTED" in log.read_text() or code == -9
        reason = wrong(work, dst, right, code, expected) if struck else ""
        shutil.rmtree(dst.parent)
        if struck:
            yield f"{path}, number {number}: {reason}" if reason else ""


def undisturbed(work: Work, place: Path) -> dict[str, object]:
    """Return the tree that a way of converting ends in."""
    dst = place / "right" / "dst"
    shutil.copytree(place / "ready", dst.parent)
    if work.run(dst):
        raise SystemExit(f"the undisturbed {work.name} fails")
    right = tree(dst)
    shutil.rmtree(dst.parent)
    return right


def report(work: Work, place: Path, groups: list[tuple[str, str]], known: set[Call]) -> int:
    """Sweep the calls that are not known yet, print a line a group; returns how many went wrong.

    Args:
        work: The way of converting.
        place: An empty folder on the file system to use.
        groups: A group of calls, and an error or KILL, of each row to print.
        known: Calls that another sweep has had; those of this one are added.
    """
    ready = place / "ready"
    ready.mkdir()
    work.prepare(ready / "dst")
    right = undisturbed(work, place)
    counts = met(work, place)
    new = {(*key, n) for key, count in counts.items() for n in range(1, count + 1)} - known
    known |= new
    failed = 0
    for group, how in groups:
        calls = sorted(call for call in new if call[0] in group.split(","))
        found = list(sweep(work, place, right, calls, how))
        bad = [what for what in found if what]
        failed += len(bad)
        row = f"{work.name:12} {group:17} {how:10} {len(found):4} calls, {len(bad)} wrong"
        print(row, *(f"    {what}" for what in bad), sep="\n", flush=True)
    shutil.rmtree(ready)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", nargs="*", default=list(CALLS), choices=CALLS)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=WAYS)
    parser.add_argument("--kills", action="store_true", help="SIGKILL alone, no errors")
    parser.add_argument("--folder", help="a folder on the file system to use, such as /dev/shm")
    chosen = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="streamconv-inject-", dir=chosen.folder) as folder:
        place = Path(folder)
        src = write_checkpoint(
            place / "src", two_shards(qwen_tensors()), {"model_type": "qwen3_moe"}
        )
        source, known = tree(src), set[Call]()
        for way in chosen.ways:
            work = Work(way, src)
            groups = [
                (group, how)
                for group in chosen.calls
                for how in (
                    *(() if chosen.kills else CALLS[group][: None if way == "convert" else 1]),
                    "KILL",
                )
            ]
            failed += report(work, place, groups, known)
        if tree(src) != source:
            raise SystemExit("the source has changed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

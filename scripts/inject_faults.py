"""Lets every system call of a conversion fail, one after the other, and holds what comes of it.

`strace` injects the fault into the program as it is: into the first call of each kind on a path,
the second, and so on until there is none left, with each error and with SIGKILL. Paths are those
of source and target only, as an interpreter opens and reads files of its own. A conversion has to
end right, or to leave no result, and then `--resume` has to end in the very tree of an undisturbed
one. A line a kind; ends with 1 where anything else comes out.
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
    "mkdir": ("ENOSPC", "EACCES"),
    "rename": ("EIO", "EACCES", "EXDEV"),
    "unlink": ("EIO", "EACCES"),
    "flock": ("ENOLCK", "EIO"),
}
"""The calls that change or read files, and the errors of each; SIGKILL comes with all of them."""
RIGHT_CODES = {"ENOSPC": 7, "EDQUOT": 7}
STRACE = ("strace", "-f", "-qq")
QUICK = "--seccomp-bpf"
"""Lets all other calls pass at full speed; with it, strace injects errors but no signals."""


def convert(src: Path, dst: Path, *more: str, strace: tuple[str, ...] = ()) -> int:
    """Runs the conversion; returns its exit code, negative for a signal."""
    words = ["convert", str(src), str(dst), "--to=fused-transposed", "--max-shard-size=300", "-j1"]
    done = subprocess.run(
        [*strace, sys.executable, "-m", "streamconv", *words, "-q", *more],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    if "Traceback" in done.stderr:
        raise SystemExit(done.stderr)
    return 128 - done.returncode if done.returncode == 128 + 9 else done.returncode


def wrong(src: Path, dst: Path, right: dict[str, object], code: int, expected: set[int]) -> str:
    """What is wrong after a conversion that ended with `code`, and after going on; or nothing."""
    if code not in expected:
        return f"exit code {code}"
    stands = dst.exists()
    if stands and tree(dst) != right:
        return "another result"
    if code == 0 and not stands:
        return "no result"
    if code != 0:
        code = convert(src, dst, "--resume", *(["--overwrite"] if stands else []))
    if code != 0 or tree(dst) != right:
        return f"gone on with: exit code {code}, or another result"
    # a lock that could not be removed holds nothing, and goes with the next run
    left = [p.name for p in dst.parent.iterdir() if p != dst and LOCK_SUFFIX not in p.name]
    return f"{', '.join(left)} left behind" if left else ""


def met(src: Path, place: Path, dst: Path) -> Counter[tuple[str, str]]:
    """How often each call of a conversion is about each path below `place`; nothing is left.

    In the thread in which that is most often the case, as strace counts for each thread.
    """
    log = place / "log"
    dst.parent.mkdir(parents=True)
    trace = (*STRACE, "-y", "-o", str(log), "-e", f"trace={','.join(CALLS)}")
    if convert(src, dst, strace=trace):
        raise SystemExit("the undisturbed conversion fails under strace")
    shutil.rmtree(dst.parent)
    found: Counter[tuple[str, str, str]] = Counter()
    for line in log.read_text().splitlines():
        call = re.match(r"(\d+) +(\w+)\(", line)
        for path in set(re.findall(rf'["<]({re.escape(str(place))}/[^">]*)[">]', line)):
            if call:
                found[call[1], call[2], path] += 1
    most: Counter[tuple[str, str]] = Counter()
    for (_, name, path), count in found.items():
        most[name, path] = max(most[name, path], count)
    return most


def sweep(
    src: Path, place: Path, right: dict[str, object], calls: list[tuple[str, str, int]], how: str
) -> Iterator[str]:
    """What is wrong, for each of these calls in turn: its name, path, and number on that path."""
    fault = f"signal={how}" if how == "KILL" else f"error={how}"
    log, dst = place / "log", place / "out" / "dst"
    for call, path, number in calls:
        dst.parent.mkdir(parents=True)
        inject = f"inject={call}:{fault}:when={number}"
        quick = () if how == "KILL" else (QUICK,)
        trace = (*STRACE, *quick, "-P", path, "-o", str(log), "-e", f"trace={call}", "-e", inject)
        code = convert(src, dst, strace=trace)
        of_source = Path(path).is_relative_to(src)
        failed = 8 if of_source else RIGHT_CODES.get(how, 8)
        expected = {-9} if how == "KILL" else {0, failed}
        struck = "INJECTED" in log.read_text() or code == -9
        reason = wrong(src, dst, right, code, expected) if struck else ""
        shutil.rmtree(dst.parent)
        if struck:
            yield f"{path}, number {number}: {reason}" if reason else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", nargs="*", default=list(CALLS), choices=CALLS)
    chosen = parser.parse_args().calls
    failed = 0
    with tempfile.TemporaryDirectory(prefix="streamconv-inject-") as folder:
        place = Path(folder)
        src = write_checkpoint(
            place / "src", two_shards(qwen_tensors()), {"model_type": "qwen3_moe"}
        )
        source = tree(src)
        if convert(src, place / "right"):
            raise SystemExit("the undisturbed conversion fails")
        right = tree(place / "right")
        counts = met(src, place, place / "out" / "dst")
        for call in chosen:
            calls = [
                (name, path, number)
                for (name, path), count in counts.items()
                for number in range(1, count + 1)
                if name in call.split(",")
            ]
            for how in (*CALLS[call], "KILL"):
                found = list(sweep(src, place, right, calls, how))
                bad = [what for what in found if what]
                failed += len(bad)
                print(f"{call:16} {how:10} {len(found):4} calls, {len(bad)} wrong", flush=True)
                for what in bad:
                    print(f"    {what}")
        if tree(src) != source:
            raise SystemExit("the source has changed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

"""The benchmark of `make bench`: streamconv next to `cp -r` and the whole model in memory.

Everything that is compared is measured in the same run, in turns, from the start of the process
to the end of a `sync`; the tables give medians (and min to max). CPU is user and system time of
the process, peak is its largest resident set, MB are 10^6 bytes.

Two things would spoil the numbers. A virtual machine's balloon takes free memory away and gives
it back slowly, so that the same `cp` varies fivefold, and it works during the next run: so
what the last run has freed is given time to go, then the source is read into the page cache, then
as much memory as the run will use is touched, in huge pages, as single ones come back in other
places. And a child's peak starts at the resident set of its parent: this driver uses the standard
library only and leaves all data to children. If `cp` can share extents (btrfs, xfs), it copies
nothing and is no measure.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
NO_SPACE = 7  # streamconv's exit status if the disk is too small
KIMI_BYTES = 34_000_000_000  # the experts of one layer of Kimi-K2

DISK = "the bytes alone, written"
ONLY_WRITE = """
import os, sys
from pathlib import Path
from streamconv.system.linux_file_ops import system_files
folder, nbytes = Path(sys.argv[1]), int(sys.argv[2])
folder.mkdir()
files, block = system_files(), memoryview(os.urandom(1 << 21))
fd = files.create(folder / "f", nbytes)
for offset in range(0, nbytes, len(block)):
    files.write(fd, block[: nbytes - offset], offset)
files.sync(fd)
files.close(fd)
"""
OWN_BYTES = 100_000_000  # what a conversion of these shapes holds at most
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
"""Of all that is measured: modules are compiled once, as where a package is installed."""
PAUSE = 10.0  # seconds in which a balloon has taken back what the last run has freed

SETTLE = """
import mmap, os, sys
need, source, others = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
def files(folder):
    return [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]
for path in (path for other in others for path in files(other)):
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
buffer = bytearray(1 << 22)
for path in files(source) if source else ():
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
with open("/proc/meminfo") as lines:
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemFree:"))
need = min(need, free * 9 // 10)
block = mmap.mmap(-1, need, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
try:
    block.madvise(mmap.MADV_HUGEPAGE)
except OSError:
    pass  # a kernel without them: slower, and less of the memory stays with us
for place in range(0, need, 4096):
    block[place] = 1
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: wall and CPU in seconds, peak resident set in bytes, bytes read and written."""

    wall: float
    cpu: float
    peak: int
    read: int = 0
    written: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """A promise and what was measured, both in `unit`; without a limit only shown."""

    what: str
    limit: float | None
    measured: float
    unit: str
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """True if the promise holds; None if there is no limit."""
        if self.limit is None:
            return None
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


@dataclass(frozen=True, slots=True)
class Side:
    """One of the commands that are measured side by side."""

    name: str
    source: Path
    """What it reads, which is in the page cache when it begins."""
    command: Sequence[str | Path]
    rounds: int
    need: int = OWN_BYTES
    """Bytes of memory that it uses."""


Samples = dict[str, list[Sample]]


def run(*argv: str | Path, sync: bool = False, fine: tuple[int, ...] = (0,)) -> Sample:
    """Run a command to its end, or to the end of a sync after it; exit if it fails.

    It fails with an exit status that is not among the `fine` ones.
    """
    command = [str(word) for word in argv]
    with tempfile.TemporaryFile() as errors:
        redirect = [
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, errors.fileno(), 2),
        ]
        start = time.perf_counter()
        pid = os.posix_spawnp(command[0], command, ENVIRONMENT, file_actions=redirect)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        # system calls' own counts, from the page cache or not
        io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
        _, status, usage = os.wait4(pid, 0)
        if sync:
            os.sync()
        wall = time.perf_counter() - start
        code = os.waitstatus_to_exitcode(status)
        if code not in fine:
            errors.seek(0)
            sys.stderr.write(errors.read().decode(errors="replace"))
            raise SystemExit(f"bench: exit status {code} of: {' '.join(command)}")
    cpu = usage.ru_utime + usage.ru_stime
    return Sample(wall, cpu, usage.ru_maxrss * 1024, int(io["rchar"]), int(io["wchar"]))


def say(text: str) -> None:
    """Print progress on stderr."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def python(script: str, *arguments: str | Path) -> list[str | Path]:
    """Return the command line of a script in this folder."""
    return [sys.executable, HERE / script, *arguments]


def streamconv(*arguments: str | Path) -> list[str | Path]:
    """The command line of the tool."""
    return [sys.executable, "-m", "streamconv", *arguments]


def size(folder: Path) -> int:
    """Bytes of a folder's files, as their lengths say."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def settle(work: Path, need: int, source: Path | None = None, pause: float = PAUSE) -> None:
    """Keep only the source of the work folder in the page cache; then touch `need` bytes."""
    others = [path for path in work.iterdir() if path != source]
    time.sleep(pause)
    run(sys.executable, "-c", SETTLE, str(need), source or "", *others)


def is_cached(folder: Path) -> bool:
    """True if the middle of a shard in the folder is in the page cache; to look reads nothing."""
    call = ctypes.CDLL(None).mincore
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            middle = path.stat().st_size // 2 // mmap.PAGESIZE * mmap.PAGESIZE
            page = mmap.mmap(file.fileno(), 1, mmap.MAP_PRIVATE, offset=middle)
            found = ctypes.c_ubyte()
            address = ctypes.addressof(ctypes.c_char.from_buffer(page))
            failed = call(ctypes.c_void_p(address), ctypes.c_size_t(1), ctypes.byref(found))
            if not failed and found.value & 1:
                return True
    return False


def require(work: Path, room: float) -> None:
    """Exit if the disk has less room than the next runs take."""
    free = shutil.disk_usage(work).free
    if free < room:
        raise SystemExit(f"bench: {work} has {free / 1e9:.0f} GB free, needs {room / 1e9:.0f} GB")


def remove(folder: Path) -> None:
    """Delete a folder, and wait for the disk before anything else is measured."""
    shutil.rmtree(folder)
    os.sync()


def in_turns(
    work: Path,
    out: Path,
    sides: Sequence[Side],
    nbytes: int,
    pause: float = PAUSE,
    *,
    cold: bool = False,
) -> Samples:
    """Samples of each side, which writes about `nbytes` to `out`, each said on stderr at once.

    If they are `cold`, nothing of what they read is in the page cache.
    """
    samples: Samples = {side.name: [] for side in sides}
    for turn in range(max(side.rounds for side in sides)):
        due = [side for side in sides if turn < side.rounds]
        # every other round backwards, so that no side always follows the same one
        for side in due[:: -1 if turn % 2 else 1]:
            settle(work, side.need, None if cold else side.source, pause)
            if cold and is_cached(side.source):
                say("the page cache cannot be dropped here: this is no cold run")
            sample = run(*side.command, sync=True)
            samples[side.name].append(sample)
            say(f"round {turn + 1}: {side.name}: {sample.wall:.2f} s")
            if abs(size(out) - nbytes) > nbytes / 100:
                raise SystemExit(f"bench: {side.name} wrote {size(out)} of {nbytes} bytes")
            remove(out)
    return samples


def conversions(
    work: Path, layers: int, rounds: int, whole_rounds: int, *, cold: bool = False
) -> tuple[Samples, int]:
    """Samples of everything that rewrites a checkpoint, and the bytes of that checkpoint."""
    source, merged, out = work / "source", work / "merged", work / "out"
    say("writing the source")
    require(work, layers * 1.21e9 * 3.2)
    run(
        *python("truesize.py", "qwen3-30b-a3b", source, "--layers", str(layers)),
        "--random",
        "--experts-only",
    )
    nbytes = size(source)
    merge = ["--to", "fused-transposed", "-q"]
    # the source of split; and with it the tool has been imported once
    run(*streamconv("merge", source, merged, *merge))
    whole = python("whole_model.py", source, out)
    usual = [
        Side("cp -r", source, ["cp", "-r", source, out], rounds, need=nbytes),
        # what the disk takes at most: nothing is read, nothing is computed
        Side(DISK, source, [sys.executable, "-c", ONLY_WRITE, out, str(nbytes)], rounds),
        Side(
            "merge --to fused-transposed",
            source,
            streamconv("merge", source, out, *merge),
            rounds,
        ),
        Side(
            "convert --to fused",
            source,
            streamconv("convert", source, out, "--to", "fused", "-q"),
            rounds,
        ),
        Side("split", merged, streamconv("split", merged, out, "-q"), rounds),
    ]
    ways = {
        "whole model, transposed": ["--transpose"],
        "whole model, fused": [],
        "whole model, transposed, freed": ["--transpose", "--free"],
    }
    slow = [
        Side(name, source, [*whole, *words], whole_rounds, need=2 * nbytes)
        for name, words in ways.items()
    ]
    samples = in_turns(work, out, [*usual, *slow], nbytes, cold=cold)
    remove(source)
    remove(merged)
    return samples, nbytes


def kimi_layer(work: Path) -> Samples:
    """One layer of Kimi-K2, merged: the memory that the largest experts take."""
    require(work, KIMI_BYTES * 1.1)
    source, out = work / "kimi-layer", work / "out"
    # layer 0 is dense, so two layers hold the experts of one
    run(*python("truesize.py", "kimi-k2", source, "--layers", "2", "--experts-only"))
    settle(work, OWN_BYTES)
    command = streamconv("merge", source, out, "--to", "fused-transposed", "-q")
    sample = run(*command, sync=True)
    remove(out)
    remove(source)
    return {"merge, one layer of Kimi-K2": [sample]}


def start_up(work: Path, rounds: int) -> Samples:
    """Dry runs of whole models, and what merely starting takes."""
    commands: dict[str, list[str | Path]] = {}
    for model in ("Kimi-K2", "Qwen3-30B-A3B"):
        run(*python("truesize.py", model.lower(), work / model))
        commands[f"merge -n, {model}"] = streamconv("merge", work / model, work / "no", "-n", "-q")
    commands["streamconv --help"] = streamconv("--help")
    commands["import click, rich"] = [sys.executable, "-c", "import click, rich"]
    samples: Samples = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, command in commands.items():
            # the plan of 2 TB is complete before the disk turns out too small for it
            sample = run(*command, fine=(0, NO_SPACE) if "-n" in command else (0,))
            # the first turn fills the page cache
            if turn:
                samples[name].append(sample)
            if (work / "no").exists():
                raise SystemExit("bench: the dry run has written something")
    return samples


def median(values: Iterable[float]) -> float:
    """The middle value, or the mean of the two."""
    ranked = sorted(values)
    return (ranked[(len(ranked) - 1) // 2] + ranked[len(ranked) // 2]) / 2


def targets(samples: Samples) -> list[Target]:
    """The promises, as far as their sides were measured."""

    def wall(name: str) -> float:
        return median(sample.wall for sample in samples[name])

    def peak(*names: str) -> float:
        return max(sample.peak for name in names for sample in samples[name]) / 1e6

    cp, merge, fused = "cp -r", "merge --to fused-transposed", "convert --to fused"
    transposed, plain = "whole model, transposed", "whole model, fused"
    freed = "whole model, transposed, freed"
    layer = "merge, one layer of Kimi-K2"

    def against(limit: float | None, name: str) -> Target:
        return Target(f"{name} against {cp}", limit, wall(name) / wall(cp), "x")

    def faster(limit: float | None, name: str, other: str) -> Target:
        return Target(f"{name}, faster than {other}", limit, wall(other) / wall(name), "x", True)

    found = [against(1.0, merge), against(0.9, fused), against(None, "split")]
    found += [against(None, DISK)]
    if samples[transposed]:
        found += [faster(10, merge, transposed), faster(10, fused, transposed)]
        # what the disk allows any tool
        found += [faster(None, DISK, transposed)]
        # like with like: in memory too, leaving out the transposes saves most of the time
        found += [faster(None, fused, plain), faster(None, merge, freed)]
    found.append(Target("peak of merge and convert", 100, peak(merge, fused), "MB"))
    if layer in samples:
        found.append(Target("peak of one layer of Kimi-K2", 200, peak(layer), "MB"))
    kimi, qwen = "merge -n, Kimi-K2", "merge -n, Qwen3-30B-A3B"
    started = wall("streamconv --help") / wall("import click, rich")
    return [
        *found,
        Target("dry run of Kimi-K2", 2, wall(kimi), "s"),
        Target("peak of that dry run", 150, peak(kimi), "MB"),
        Target("dry run of Qwen3-30B-A3B", 0.5, wall(qwen), "s"),
        Target("--help against import click, rich", 3, started, "x"),
    ]


def machine(work: Path) -> str:
    """Processor, memory, kernel, file system and Python, in a line."""

    def first(path: str, key: str) -> str:
        lines = Path(path).read_text().splitlines()
        return next((line.split(":")[1].strip() for line in lines if line.startswith(key)), "?")

    mounts = [line.split()[:3] for line in Path("/proc/mounts").read_text().splitlines()]
    holds = [mount for mount in mounts if work.resolve().is_relative_to(mount[1])]
    device, _, kind = max(holds, key=lambda mount: len(mount[1]))
    ram = int(first("/proc/meminfo", "MemTotal").split()[0]) * 1024 / 2**30
    version = ".".join(map(str, sys.version_info[:3]))
    return (
        f"{first('/proc/cpuinfo', 'model name')}, {os.cpu_count()} cores, {ram:.1f} GiB RAM,"
        f" Linux {os.uname().release}, {kind} on {device}, Python {version}"
    )


def source_line(layers: int, nbytes: int) -> str:
    """What is converted."""
    return f"Source: experts of {layers} layers of Qwen3-30B-A3B, {nbytes / 1e9:.2f} GB."


def report(samples: Samples, promises: Sequence[Target]) -> str:
    """Both tables, in Markdown."""

    def spread(values: Iterable[float]) -> str:
        ranked = sorted(values)
        middle = f"{median(ranked):.2f}"
        return middle + (f" ({ranked[0]:.2f} to {ranked[-1]:.2f})" if len(ranked) > 1 else "")

    columns: list[Callable[[list[Sample]], str]] = [
        lambda runs: spread(run.wall for run in runs),
        lambda runs: spread(run.cpu for run in runs),
        lambda runs: f"{max(run.peak for run in runs) / 1e6:.0f}",
        lambda runs: str(len(runs)),
    ]
    lines = [
        "| run | wall, s | CPU, s | peak, MB | runs |",
        "|---|---|---|---|---|",
    ]
    for name, runs in samples.items():
        if runs:
            lines.append(f"| {name} | {' | '.join(column(runs) for column in columns)} |")
    lines += ["", "| target | allowed | measured | met |", "|---|---|---|---|"]
    for promise in promises:
        verdict = {True: "yes", False: "**no**", None: ""}[promise.met]
        sign = ">=" if promise.at_least else "<="
        allowed = f"{sign} {promise.limit:g} {promise.unit}" if promise.limit is not None else ""
        measured = f"{promise.measured:.3g} {promise.unit}"
        lines.append(f"| {promise.what} | {allowed} | {measured} | {verdict} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Measure streamconv next to cp and in-memory ways."
    )
    parser.add_argument("--layers", type=int, default=8, help="layers of Qwen3-30B-A3B (8)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the fast sides (5)")
    parser.add_argument("--whole-rounds", type=int, default=1, help="rounds of the slow side (1)")
    parser.add_argument("--quick", action="store_true", help="2 layers, 2 rounds")
    parser.add_argument("--cold", action="store_true", help="drop the source from the page cache")
    parser.add_argument("--kimi", action="store_true", help="a layer of Kimi-K2 too (34 GB)")
    parser.add_argument("--work", type=Path, help="work in a new folder in here (next to the cwd)")
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    args = parser.parse_args()
    layers, rounds = (2, 2) if args.quick else (args.layers, args.rounds)
    work = Path(tempfile.mkdtemp(prefix="streamconv-bench-", dir=args.work or Path.cwd().parent))
    try:
        place = machine(work)
        samples, nbytes = conversions(work, layers, rounds, args.whole_rounds, cold=args.cold)
        if args.kimi:
            samples |= kimi_layer(work)
        samples |= start_up(work, 2 * rounds + 1)
    finally:
        shutil.rmtree(work)
    promises = targets(samples)
    print(f"{place}\n\n{source_line(layers, nbytes)}\n\n{report(samples, promises)}")
    if args.json:
        found = {
            "machine": place,
            "source": {"layers": layers, "bytes": nbytes},
            "samples": {name: [asdict(run) for run in runs] for name, runs in samples.items()},
            "targets": [asdict(promise) | {"met": promise.met} for promise in promises],
        }
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Every file operation goes wrong once, in every way: each ends in the right bytes, or in an error
after which nothing is lost and `--resume` ends in the right bytes.

`scripts/inject_faults.py` does the same to the system calls themselves, all of them; a sample
is here.
"""

import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from faulty import (
    FAULTS,
    KILLED,
    OPERATIONS,
    READING,
    Fault,
    Heartbeat,
    Site,
    Twin,
    in_a_child,
    with_files,
)
from folders import old_checkpoint, qwen_tensors, tree, two_shards, write_checkpoint

import streamconv
from streamconv.errors import IOFailed, NoSpace, StreamconvError
from streamconv.system.linux_file_ops import LinuxFiles

SHARD = 300
PARTIAL = "dst.streamconv-partial"


@pytest.fixture(scope="module")
def src(memory: Path) -> Path:
    folder = memory / "src"
    config = {"model_type": "qwen3_moe", "num_experts": 2}
    write_checkpoint(folder, two_shards(qwen_tensors(experts=2)), config)
    (folder / "notes").mkdir()
    (folder / "notes" / "readme.txt").write_bytes(b"text " * 1000)
    return folder


@pytest.fixture(scope="module")
def right(src: Path, memory: Path) -> dict[str, Any]:
    """The tree of an undisturbed run."""
    run(src, memory / "right")
    return tree(memory / "right")


@pytest.fixture(scope="module")
def undisturbed(src: Path, memory: Path) -> dict[bool, Twin]:
    """What a run does to files, one that replaces nothing and one that does."""
    done = {}
    for overwrite in (False, True):
        files = Twin()
        place = memory / f"count-{overwrite}" / "dst"
        place.parent.mkdir()
        if overwrite:
            closed_checkpoint(place)
        with_files(files, lambda place=place, o=overwrite: run(src, place, overwrite=o))
        done[overwrite] = files
    return done


def run(src: Path, dst: Path, **options: Any) -> None:
    options = {"jobs": 1, "max_shard_size": SHARD, "copy": True, **options}
    streamconv.convert(src, dst, to="fused-transposed", **options)


def closed_checkpoint(folder: Path) -> dict[str, Any]:
    """One of another group, if root makes it, that nobody else may look into."""
    standing = old_checkpoint(folder)
    folder.chmod(0o700)
    if os.geteuid() == 0:
        os.chown(folder, -1, 4242)
    return standing


def after(src: Path, dst: Path, right: dict[str, Any], standing: dict[str, Any] | None) -> None:
    """What has to hold where a run has not come to its end, and what another one makes of it.

    One that left nothing is not followed: `test_a_run_without_traces_is_followed_by_any` is.
    """
    replaced = dst.with_name("dst.streamconv-replaced")
    names = [path.name for path in dst.parent.iterdir()]
    if names == ([] if standing is None else ["dst"]) and standing in (None, tree(dst)):
        return
    if dst.exists():
        assert tree(dst) in (right, standing)
    elif standing is not None:
        assert tree(replaced) == standing
    run(src, dst, resume=True, overwrite=standing is not None or dst.exists())
    assert tree(dst) == right
    assert standing is None or dst.stat().st_mode & 0o077 == 0
    assert [path.name for path in dst.parent.iterdir()] == ["dst"]


def test_every_operation_is_met(undisturbed: dict[bool, Twin]) -> None:
    """Those of clearing up are met if something is replaced."""
    missing = set(OPERATIONS) - {name for files in undisturbed.values() for name in files.done}
    assert missing <= ({"set_owner"} if os.geteuid() else set())


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_without_traces_is_followed_by_any(
    src: Path, tmp_path: Path, right: dict[str, Any], overwrite: bool
) -> None:
    """By one that resumes, too."""
    if overwrite:
        closed_checkpoint(tmp_path / "dst")
    run(src, tmp_path / "dst", resume=True, overwrite=overwrite)
    assert tree(tmp_path / "dst") == right


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_every_operation_fails(
    src: Path,
    memory: Path,
    right: dict[str, Any],
    undisturbed: dict[bool, Twin],
    fault: str,
    overwrite: bool,
) -> None:
    """Once, in each way that it can; or all of them from one on."""
    source = tree(src)
    failed = 0
    for at in moments(undisturbed, overwrite, FAULTS[fault]):
        dst = memory / "out" / "dst"
        dst.parent.mkdir()
        standing = closed_checkpoint(dst) if overwrite else None
        files = Twin(at, FAULTS[fault])
        try:
            with_files(files, lambda dst=dst: run(src, dst, overwrite=overwrite))
            assert tree(dst) == right
        except StreamconvError as error:
            failed += 1
            assert "half" not in fault
            full = fault in ("ENOSPC", "EDQUOT", "a full disk")
            assert isinstance(error, NoSpace if full else IOFailed), at
            assert error.message
            after(src, dst, right, standing)
        assert files.struck, at
        shutil.rmtree(dst.parent)
    assert (failed > 2) == ("half" not in fault)
    assert tree(src) == source


class Crowded(LinuxFiles):
    """Still lists what other parts have just renamed or removed, until a shard is made."""

    def __init__(self) -> None:
        super().__init__()
        self.gone: set[str] = set()
        self.is_writing = False

    def _others(self, folder: Path) -> list[str]:
        names = {PARTIAL: ["streamconv-journal-9.new"]}.get(folder.name, [])
        if folder.name == "crowded":
            names = ["dst.streamconv-journal-9.jsonl", "dst.streamconv-lock-9"]
        names = [] if self.is_writing else names
        self.gone.update(names)
        return names

    def names(self, folder: Path) -> list[str]:
        return sorted([*super().names(folder), *self._others(folder)])

    def walk(self, folder: Path) -> list[Path]:
        return sorted([*super().walk(folder), *[folder / name for name in self._others(folder)]])

    def create(self, path: Path, size: int) -> int:
        self.is_writing = True
        return super().create(path, size)


def test_what_other_parts_rename_is_no_error(
    src: Path, memory: Path, right: dict[str, Any]
) -> None:
    """Between the list of a folder and a look at what is in it."""
    dst = memory / "crowded" / "dst"
    dst.parent.mkdir()
    with_files(Twin(), lambda: run(src, dst, part="1/2"))
    files = Crowded()
    with_files(files, lambda: run(src, dst, part="2/2"))
    assert len(files.gone) == 3
    with_files(Twin(), lambda: streamconv.finish(dst))
    assert tree(dst) == right


@pytest.mark.parametrize("first", [0, 1])
def test_every_operation_of_a_dcp_fails(memory: Path, first: int) -> None:
    """Read, written, hashed and verified: what such a run does more than another."""
    place = memory / f"dcp-{first}"
    src, dcp, right = (place / name for name in ("src", "dcp", "right"))
    config = {"model_type": "qwen3_moe", "num_experts": 1}
    write_checkpoint(src, two_shards(qwen_tensors(experts=1)), config)
    (src / "readme.txt").write_bytes(b"text " * 1000)
    run(src, dcp, format="dcp")
    assert len(list(dcp.glob("*.distcp"))) > 1
    more: dict[str, Any] = {"format": "dcp", "sha256": True, "verify": True}
    files = Twin()
    with_files(files, lambda: run(dcp, right, **more))
    wanted = tree(right)
    for at in different(files.sites)[first::2]:
        dst = place / "out" / "dst"
        dst.parent.mkdir()
        failing = Twin(at, FAULTS["EIO"])
        try:
            with_files(failing, lambda dst=dst: run(dcp, dst, **more))
        except StreamconvError as error:
            assert isinstance(error, IOFailed), at
            if [*dst.parent.iterdir()] != []:
                run(dcp, dst, **more, resume=True, overwrite=dst.exists())
                assert [path.name for path in dst.parent.iterdir()] == ["dst"]
        assert failing.struck, at
        assert [*dst.parent.iterdir()] == [] or tree(dst) == wanted
        shutil.rmtree(dst.parent)


def moments(undisturbed: dict[bool, Twin], overwrite: bool, fault: Fault) -> list[int]:
    """Which of the operations that can go so wrong does, counted from 1: each that differs.

    If all of them do from there on, it is the first, and those at and after each operation that
    leaves something else: in between, there is nothing else to find.
    """
    possible = [site for site in undisturbed[overwrite].sites if site[-1] in fault.only]
    shared = set(possible).intersection(undisturbed[not overwrite].sites)
    found = different(possible, sorted(shared), overwrite)
    if not fault.lasting:
        return found
    changes = {0, *(number for number in found if possible[number - 1][-1] in KILLED.only)}
    after = {number + 1 for number in changes}
    return sorted((changes | after) & {*range(1, len(possible) + 1)})


def different(sites: list[Site], shared: Sequence[Site] = (), overwrite: bool = False) -> list[int]:
    """The first and the last operation that the same lines make, counted from 1; of those that
    only look, the first.

    Two runs divide the sites that they share: each has every other one that only looks. Of the
    rest both have the first operations, as it matters if something is there already, and the run
    with `overwrite` has the last.
    """
    first = {site: number for number, site in reversed([*enumerate(sites, 1)])}
    last = {site: number for number, site in enumerate(sites, 1) if not only_looks(site)}
    looks = [site for site in shared if only_looks(site)]
    others = {site for site in shared if not only_looks(site)}
    for site in looks[overwrite::2]:
        del first[site]
    for site in () if overwrite else others:
        del last[site]
    return sorted({*first.values(), *last.values()})


def only_looks(site: Site) -> bool:
    """Nothing is left otherwise after such an operation."""
    return site[-1] in READING and site[-1] not in KILLED.only


@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_at_an_operation(
    src: Path,
    memory: Path,
    right: dict[str, Any],
    undisturbed: dict[bool, Twin],
    overwrite: bool,
) -> None:
    """At each that changes what is left; now and then the run that resumes is killed, too."""
    source = tree(src)
    for at in moments(undisturbed, overwrite, KILLED):
        dst = memory / "out" / "dst"
        dst.parent.mkdir()
        standing = closed_checkpoint(dst) if overwrite else None
        files = Twin(at, KILLED)
        code = in_a_child(files, lambda dst=dst: run(src, dst, overwrite=overwrite))
        assert code == -signal.SIGKILL
        if at % 3 == 1:
            go_on = Twin(1 + at // 2, KILLED)
            in_a_child(go_on, lambda dst=dst: run(src, dst, resume=True, overwrite=overwrite))
        after(src, dst, right, standing)
        shutil.rmtree(dst.parent)
    assert tree(src) == source


def test_killed_at_random_moments(src: Path, memory: Path, right: dict[str, Any]) -> None:
    """With two workers, between operations as well as in them."""
    dice = random.Random(1)
    killed = 0
    for number in range(6):
        dst = memory / f"random-{number}" / "dst"
        dst.parent.mkdir()
        longest = 0.03
        while not dst.exists():
            pid = os.fork()
            if pid == 0:
                try:
                    run(src, dst, resume=True, jobs=2)
                finally:
                    os._exit(0)
            time.sleep(dice.uniform(0.001, longest))
            longest *= 1.05  # a slow machine needs longer for a shard
            os.kill(pid, signal.SIGKILL)
            killed += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        after(src, dst, right, None)
    assert killed > 5


def test_a_failed_fsync_is_not_retried(src: Path, tmp_path: Path, right: dict[str, Any]) -> None:
    """The file is made again: its pages may be lost, and the system reports that only once."""
    inodes: list[int] = []
    kept: list[int] = []

    class Sinking(Twin):
        def sync(self, fd: int) -> None:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                inodes.append(os.fstat(fd).st_ino)
            if len(inodes) == 4 and not kept:
                kept.append(os.dup(fd))
                raise OSError(5, "Input/output error")
            super().sync(fd)

    with pytest.raises(IOFailed):
        with_files(Sinking(), lambda: run(src, tmp_path / "dst"))
    with_files(Sinking(), lambda: run(src, tmp_path / "dst", resume=True))
    assert len(inodes) > 4
    assert inodes.count(inodes[3]) == 1
    os.close(kept[0])
    assert tree(tmp_path / "dst") == right


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_relied_on_is_durable(src: Path, tmp_path: Path, overwrite: bool) -> None:
    """A shard, and its name, before the journal says that it is finished; everything before the
    result takes its place, and that name before the run is over."""
    dst = tmp_path / "dst"
    if overwrite:
        closed_checkpoint(dst)
    files = Heartbeat()
    with_files(files, lambda: run(src, dst, overwrite=overwrite))
    lock = tmp_path / "dst.streamconv-lock-1"
    names = [what for what, _, _ in files.seen]
    assert names.count("journal") == len(list(dst.glob("*.safetensors"))) > 2
    journal = names.index("journal")
    for what, dirty, folders in files.seen[journal:]:
        if what == "journal" or what == f"rename {PARTIAL}":
            assert len(dirty) == 1, "that of the lock, which does not count"
            assert not {folder for folder in folders if PARTIAL in str(folder)}
    assert names[-2:] == [f"rename {PARTIAL}", f"sync {tmp_path.name}"]
    assert not lock.exists()


# --- file systems that are full ----------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of its own with these limits, where that is permitted."""
    place = tmp_path / "small"
    place.mkdir()

    def mount(options: str) -> Path:
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if subprocess.run(words, check=False, capture_output=True).returncode:
            pytest.skip("mounting is not permitted here")
        return place

    yield mount
    subprocess.run(["umount", str(place)], check=False, capture_output=True)


def test_a_disk_that_fills_up(
    src: Path,
    right: dict[str, Any],
    small: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Checked beforehand; otherwise the error has both figures. With more room it resumes."""
    place = small("size=24k")
    with pytest.raises(NoSpace, match=r"kB needed, .* kB free"):
        run(src, place / "dst")
    assert list(place.iterdir()) == []
    small("remount,size=36k")  # the journal has room, and some shards
    with monkeypatch.context() as blind:
        blind.setattr("streamconv.sinks.preflight.free_disk", lambda folder: None)
        with pytest.raises(
            NoSpace, match=r"No space left on device; .* to be written, .* free"
        ) as e:
            run(src, place / "dst")
    assert "--resume" in "".join(e.value.__notes__)
    assert [path.name for path in place.iterdir()] == [PARTIAL]
    small("remount,size=10m")
    run(src, place / "dst", resume=True)
    assert tree(place / "dst") == right


def test_a_disk_without_room_for_files(src: Path, small: Callable[[str], Path]) -> None:
    """Free bytes are not all that a file takes."""
    place = small("size=10m,nr_inodes=5")
    with pytest.raises(NoSpace, match=r"files needed, the file system has room for \d"):
        run(src, place / "dst")
    assert list(place.iterdir()) == []


def test_a_mount_point_is_no_target(src: Path, small: Callable[[str], Path]) -> None:
    """Nor is one on the same file system, which looks like any folder."""
    place = small("size=10m")
    with pytest.raises(StreamconvError, match="mount point"):
        run(src, place)
    (place / "here").mkdir()
    (place / "there").mkdir()
    words = ["mount", "--bind", str(place / "here"), str(place / "there")]
    assert subprocess.run(words, check=False).returncode == 0
    try:
        with pytest.raises(StreamconvError, match="mount point"):
            run(src, place / "there")
    finally:
        subprocess.run(["umount", str(place / "there")], check=True)


# --- system calls ------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize(
    ("call", "number", "code"),
    [
        ("fsync", "EIO", 8),
        ("pwrite64", "ENOSPC", 7),
        ("preadv,preadv2", "EIO", 8),
        ("fallocate", "EDQUOT", 7),
        ("pwrite64", "EINTR", 0),
        ("sync_file_range", "EIO", 8),
        ("sync_file_range", "ENOSPC", 7),
        ("sync_file_range", "ENOSYS", 0),
        ("renameat", "KILL", -9),
    ],
)
def test_a_system_call_fails(
    src: Path, tmp_path: Path, right: dict[str, Any], call: str, number: str, code: int
) -> None:
    """The second one of its kind, injected from outside into the program as it is."""
    how = "signal=KILL" if number == "KILL" else f"error={number}"
    words = [
        *("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={call}:{how}:when=2"),
        *(sys.executable, "-m", "streamconv", "convert", str(src), str(tmp_path / "dst")),
        *("--to", "fused-transposed", "--max-shard-size", f"{SHARD}B", "-j1"),
    ]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        words, check=False, capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode in (code, 128 - code), done.stderr
    assert "Traceback" not in done.stderr
    if code == 0:
        assert tree(tmp_path / "dst") == right
    else:
        assert not (tmp_path / "dst").exists()
        after(src, tmp_path / "dst", right, None)

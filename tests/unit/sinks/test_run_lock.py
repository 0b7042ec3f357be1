"""The lock of a run: who excludes whom, with and without locks of the file system."""

import fcntl
import json
import os
from pathlib import Path

import pytest
from faulty import Lockless

from streamconv.errors import IOFailed, OutputExists
from streamconv.planning.partition import Partition
from streamconv.sinks import run_lock
from streamconv.sinks.run_lock import Lock, LockOwner
from streamconv.sinks.run_paths import RunPaths
from streamconv.system.host import host_of_processes
from streamconv.system.linux_file_ops import LinuxFiles, system_files
from streamconv.system.resources import start_time

LOCK = "dst.streamconv-lock-1"


def test_without_locks_another_host_cannot_be_asked(tmp_path: Path) -> None:
    """Its lock counts until somebody who knows removes it."""
    lock = tmp_path / LOCK
    lock.write_text(json.dumps({"number": 1, "of": 1, "host": "elsewhere", "pid": 7, "since": "1"}))
    with pytest.raises(OutputExists, match="process 7 on elsewhere") as caught:
        Lock(RunPaths(tmp_path / "dst"), Partition(), Lockless()).take()
    assert str(lock) in caught.value.hint
    Lock(RunPaths(tmp_path / "dst"), Partition(), LinuxFiles()).take()


def test_locks_of_this_host_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They exclude runs of this host; those of others count until their lock is removed."""
    monkeypatch.setattr("streamconv.system.linux_file_ops.has_local_locks", lambda _: True)
    held, other = (Lock(RunPaths(tmp_path / "dst"), Partition(), LinuxFiles()) for _ in range(2))
    held.take()
    with pytest.raises(OutputExists, match=f"process {os.getpid()} on"):
        other.take()
    held.release()
    owner = {"number": 1, "of": 1, "host": host_of_processes(), "pid": 2**22 + 1, "since": "1"}
    for host, alive in ((host_of_processes(), False), ("elsewhere", True)):
        (tmp_path / LOCK).write_text(json.dumps(owner | {"host": host}))
        if alive:
            with pytest.raises(OutputExists, match="on elsewhere"):
                other.take()
        else:
            other.take()
            other.release()


def test_without_locks_a_container_is_a_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process 1 is not that of another container, though both have the name of their host."""
    names = iter(["pid:[4026532001]", "pid:[4026532002]"])
    for _ in range(2):
        namespace = next(names)
        monkeypatch.setattr(os, "readlink", lambda _, namespace=namespace: namespace)
        monkeypatch.setattr(os, "getpid", lambda: 1)
        monkeypatch.setattr(run_lock, "start_time", lambda _, namespace=namespace: namespace)
        lock = Lock(RunPaths(tmp_path / "dst"), Partition(), Lockless())
        if namespace.endswith("1]"):
            lock.take()
        else:
            with pytest.raises(OutputExists, match=r"process 1 on .*4026532001"):
                lock.take()


def test_parts_work_side_by_side(tmp_path: Path) -> None:
    """Those of one run; parts of another one, or a whole run, are refused."""
    files = system_files()
    first, second = (Lock(RunPaths(tmp_path / "dst"), Partition(k, 2), files) for k in (1, 2))
    first.take()
    second.take()
    for other in (Partition(1, 2), Partition(2, 3), Partition(3, 3), Partition(1, 1)):
        with pytest.raises(OutputExists):
            Lock(RunPaths(tmp_path / "dst"), other, files).take()
    second.release()
    first.release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_file_was_just_removed_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking it, its last holder has let go."""
    removed: list[int] = []

    class Racing(LinuxFiles):
        def lock(self, fd: int) -> None:
            if not removed:
                removed.append(fd)
                (tmp_path / LOCK).unlink()
            super().lock(fd)

    lock = Lock(RunPaths(tmp_path / "dst"), Partition(), Racing())
    lock.take()
    with (tmp_path / LOCK).open("a") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    lock.release()


@pytest.mark.parametrize(
    ("host", "pid", "since", "alive"),
    [
        (host_of_processes(), os.getpid(), start_time(os.getpid()), True),
        (host_of_processes(), os.getpid(), "another process of that number", False),
        (host_of_processes(), 2**22 + 1, None, False),
        ("elsewhere", 2**22 + 1, "1", True),
    ],
    ids=["this process", "another process of that number", "no such process", "another host"],
)
def test_an_owner_is_dead_only_if_that_is_known(
    host: str, pid: int, since: str | None, alive: bool
) -> None:
    """On its own host; pids are used again, so the start of the process counts."""
    assert LockOwner(1, 1, host, pid, since).is_possibly_alive() == alive


def test_the_file_names_the_owner(tmp_path: Path) -> None:
    """As JSON with the fields that earlier versions wrote; it goes when the lock is released."""
    lock = Lock(RunPaths(tmp_path / "dst"), Partition(), system_files())
    lock.take()
    owner = json.loads((tmp_path / LOCK).read_text())
    assert list(owner) == ["number", "of", "host", "pid", "since"]
    assert owner["pid"] == os.getpid()
    with pytest.raises(OutputExists, match=f"process {os.getpid()} on"):
        Lock(RunPaths(tmp_path / "dst"), Partition(), system_files()).check()
    lock.release()
    lock.release()
    Lock(RunPaths(tmp_path / "dst"), Partition(), system_files()).check()
    assert list(tmp_path.iterdir()) == []


OWNER = {"number": 1, "of": 1, "host": "elsewhere", "pid": 7, "since": "1"}
WRONG: tuple[object, ...] = (None, True, -1, 0, 1.5, [], {}, 10**30, "../../x")


@pytest.mark.parametrize("value", WRONG, ids=map(repr, WRONG))
@pytest.mark.parametrize("field", [*OWNER])
def test_a_malformed_owner_counts_as_none(tmp_path: Path, field: str, value: object) -> None:
    """Each field of another kind, or missing; also where the content alone decides."""
    lock = tmp_path / LOCK
    allowed = (("since", None), ("since", "../../x"), ("host", "../../x"))
    for fields in ({**OWNER, field: value}, {k: v for k, v in OWNER.items() if k != field}):
        if (field, fields.get(field)) in allowed and field in fields:
            continue
        lock.write_text(json.dumps(fields))
        taken = Lock(RunPaths(tmp_path / "dst"), Partition(), Lockless())
        taken.take()
        assert json.loads(lock.read_text())["pid"] == os.getpid()
        taken.release()


@pytest.mark.parametrize(
    "raw", [b"", b"\xff", b"[" * 4000, b"9" * 4000, b"[]", b"null", b'"x"', b"{}", b"x" * 10**6]
)
def test_a_lock_that_says_nothing_is_refused_without_a_name(tmp_path: Path, raw: bytes) -> None:
    """If a process holds it; else it is taken."""
    lock = tmp_path / LOCK
    lock.write_bytes(raw)
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(OutputExists, match=r"another run is working on it, a process$"):
            Lock(RunPaths(tmp_path / "dst"), Partition(), system_files()).take()
    taken = Lock(RunPaths(tmp_path / "dst"), Partition(), system_files())
    taken.take()
    taken.release()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("folder", ["/proc", "/sys", "/proc/self", "/dev/null", "/proc/self/fd"])
def test_a_folder_in_which_nothing_can_be_made(folder: str) -> None:
    """The error of the system comes at once."""
    with pytest.raises(OSError, match="out") as caught:
        Lock(RunPaths(Path(folder, "out")), Partition(), system_files()).take()
    assert caught.value.errno


def test_a_lock_whose_file_is_always_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is given up after some tries, with the reason."""
    monkeypatch.setattr(run_lock, "RETRY_SECONDS", 0.001)

    class Vanishing(LinuxFiles):
        def lock(self, fd: int) -> None:
            super().lock(fd)
            (tmp_path / LOCK).unlink()

    with pytest.raises(IOFailed, match=r"was removed 200 times while it was taken"):
        Lock(RunPaths(tmp_path / "dst"), Partition(), Vanishing()).take()

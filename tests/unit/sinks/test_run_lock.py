"""The lock of a run: who excludes whom, with and without locks of the file system."""

import fcntl
import json
import os
import platform
from pathlib import Path

import pytest
from faulty import Lockless

from streamconv.errors import OutputExists
from streamconv.planning.partition import Partition
from streamconv.sinks.run_lock import Lock, LockOwner
from streamconv.sinks.run_paths import RunPaths
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
        (platform.node(), os.getpid(), start_time(os.getpid()), True),
        (platform.node(), os.getpid(), "another process of that number", False),
        (platform.node(), 2**22 + 1, None, False),
        ("elsewhere", 2**22 + 1, "1", True),
    ],
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

"""Cores, memory and disk, compared with what the system itself reports."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from streamconv.system import resources

MIB = 2**20


def output_of(script: str) -> list[int]:
    """Run a script in a process of its own, and return the numbers that it prints."""
    command = [sys.executable, "-c", f"from streamconv.system.resources import *\n{script}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def test_memory_of_this_process_follows_what_it_allocates() -> None:
    """Resident memory falls after a release; the peak stays."""
    script = f"""
import mmap
def show(): print(resident_bytes(), peak_bytes())
show()
memory = mmap.mmap(-1, {200 * MIB}); memory.write(b"x" * {200 * MIB})
show()
memory.close()
show()
"""
    before, peak_before, during, peak_during, after, peak_after = output_of(script)
    assert during - before > 190 * MIB
    assert peak_during >= during
    assert peak_before < peak_during
    assert during - after > 190 * MIB
    assert peak_after >= peak_during


def test_the_default_limit_divides_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "free_memory", lambda: 1000 * MIB)
    monkeypatch.setattr(resources, "resident_bytes", lambda: 50 * MIB)
    assert resources.default_max_memory() == 850 * MIB
    assert resources.default_max_memory(4) == 250 * MIB
    monkeypatch.setattr(resources, "free_memory", lambda: None)
    assert resources.default_max_memory() is None


@pytest.mark.parametrize(
    ("host", "cgroup", "free"),
    [(5, 3, 3), (3, 5, 3), (None, 5, 5), (3, None, 3), (None, None, None)],
)
def test_the_smaller_of_host_and_cgroup_is_free(
    host: int | None, cgroup: int | None, free: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "_meminfo", lambda _: host)
    monkeypatch.setattr(resources, "cgroup_free", lambda: cgroup)
    assert resources.free_memory() == free


def test_free_disk_is_that_of_the_nearest_folder(tmp_path: Path) -> None:
    """Other processes write meanwhile, so both figures are only close."""
    expected = shutil.disk_usage(tmp_path).free
    for folder in (tmp_path, tmp_path / "not" / "there"):
        free = resources.free_disk(folder)
        assert free is not None
        assert abs(free - expected) < 0.05 * expected + 1000 * MIB


def test_inodes_of_a_file_system_without_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reports 0 inodes in all, as Btrfs does."""
    fields = list(os.statvfs(tmp_path))
    fields[5:8] = [0, 0, 0]
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))
    assert resources.free_inodes(tmp_path) is None
    fields[5:8] = [100, 40, 30]
    assert resources.free_inodes(tmp_path) == 30


def test_a_file_system_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "statvfs", fail)
    assert resources.free_disk(tmp_path) is None
    assert resources.free_inodes(tmp_path) is None


def test_the_limit_of_a_file() -> None:
    script = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (12345, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
print(file_size_limit())
"""
    assert output_of(script) == [12345]
    if resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY:
        assert resources.file_size_limit() is None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_start_times_tell_processes_apart() -> None:
    """The same for one process at any time, and none for one that has ended."""
    mine = resources.start_time(os.getpid())
    assert mine is not None
    assert mine.isdecimal()
    assert resources.start_time(os.getpid()) == mine
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        later = resources.start_time(child.pid)
        child.communicate(b"\n")
    assert later is not None
    assert int(later) >= int(mine)
    assert resources.start_time(child.pid) is None

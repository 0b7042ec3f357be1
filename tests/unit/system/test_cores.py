"""Cores by affinity and by the quotas of cgroups, and the workers that follow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamconv.system import cores as subject


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs core affinity")
def test_only_the_cores_of_this_process_count() -> None:
    script = (
        "import os; from streamconv.system.cores import cores, default_workers\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(cores(), default_workers())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "1"]


@pytest.mark.parametrize(
    ("count", "quota", "processes", "cores", "workers"),
    [
        (1, None, 1, 1, 1),
        (2, None, 1, 2, 2),
        (64, None, 1, 64, 8),
        (64, None, 16, 64, 4),
        (2, None, 16, 2, 1),
        (64, 3.0, 1, 3, 3),
        (64, 2.5, 1, 3, 3),
        (64, 0.1, 1, 1, 1),
        (2, 100.0, 1, 2, 2),
    ],
)
def test_workers(
    count: int,
    quota: float | None,
    processes: int,
    cores: int,
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As many as cores, a started one too, among the processes of a host; at most eight."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(count)))
    monkeypatch.setattr(subject, "cgroup_cores", lambda: quota)
    assert (subject.cores(), subject.default_workers(processes)) == (cores, workers)


def make_group(root: Path, version: int, path: str, quota: int | None, period: int) -> None:
    folder = root / ("cpu" if version == 1 else "") / path
    folder.mkdir(parents=True, exist_ok=True)
    if version == 2:
        (folder / "cpu.max").write_text(f"{'max' if quota is None else quota} {period}\n")
    else:
        (folder / "cpu.cfs_quota_us").write_text(f"{-1 if quota is None else quota}\n")
        (folder / "cpu.cfs_period_us").write_text(f"{period}\n")


@pytest.mark.parametrize("version", [1, 2])
def test_the_narrowest_quota_counts(version: int, tmp_path: Path) -> None:
    """Of the group and those above it; other groups and broken files do not count."""
    membership = tmp_path / "membership"
    membership.write_text("4:cpu,cpuacct:/jobs/one\n" if version == 1 else "0::/jobs/one\n")
    assert subject.cgroup_cores(membership, tmp_path) is None
    make_group(tmp_path, version, "jobs/one", None, 100_000)
    assert subject.cgroup_cores(membership, tmp_path) is None
    make_group(tmp_path, version, "jobs", 150_000, 100_000)
    make_group(tmp_path, version, "other", 10_000, 100_000)
    assert subject.cgroup_cores(membership, tmp_path) == 1.5
    make_group(tmp_path, version, "", 50_000, 100_000)
    assert subject.cgroup_cores(membership, tmp_path) == 0.5
    make_group(tmp_path, version, "", 50_000, 0)
    assert subject.cgroup_cores(membership, tmp_path) == 1.5

"""Cores by affinity and by a quota, and the workers that follow."""

import os
import subprocess
import sys

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

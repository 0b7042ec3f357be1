"""The processor cores that this process may use, and how many workers that makes by default."""

import contextlib
import math
import os
from pathlib import Path

from streamconv.system.cgroups import MEMBERSHIP, MOUNTED, group_folders

MOST_WORKERS = 8
"""The most workers by default: more of them wait for the disk, or for one another."""


def cores() -> int:
    """Return how many cores this process may use: by its affinity, and by the quota of its cgroups.

    Half a core counts as one.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    count = (len(affinity(0)) if affinity else os.cpu_count()) or 1
    quota = cgroup_cores()
    return count if quota is None else max(min(count, math.ceil(quota)), 1)


def default_workers(processes: int = 1) -> int:
    """Return how many workers this process has if nobody says how many.

    Args:
        processes: How many processes of the run share this host.
    """
    return min(max(cores() // processes, 1), MOST_WORKERS)


def cgroup_cores(membership: Path = MEMBERSHIP, mounted: Path = MOUNTED) -> float | None:
    """Return the least quota of processor time of any cgroup from ours to the root, in cores.

    Args:
        membership: The file that names the groups of this process.
        mounted: The folder where the groups are mounted.
    """
    quotas: list[float] = []
    for version, folder in group_folders("cpu", membership, mounted):
        with contextlib.suppress(OSError, ValueError):
            if version == 2:
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota = (folder / "cpu.cfs_quota_us").read_text()
                period = (folder / "cpu.cfs_period_us").read_text()
            if int(quota) > 0 and int(period) > 0:
                quotas.append(int(quota) / int(period))
    return min(quotas, default=None)

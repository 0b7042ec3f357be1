"""The processor cores that this process may use, and how many workers that makes by default."""

import math
import os

from streamconv.system.cgroups import cgroup_cores

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

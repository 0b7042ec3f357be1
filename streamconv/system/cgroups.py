"""What the cgroups of this process, of version 1 or 2, leave to it: cores, and memory in bytes.

Every group from ours to the root limits it, so the least of all counts.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

Limit = TypeVar("Limit", int, float)

MEMBERSHIP = Path("/proc/self/cgroup")
"""The file that names the groups of this process."""
MOUNTED = Path("/sys/fs/cgroup")
"""The folder where the groups are mounted."""
_MEMORY_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    2: ("memory.max", "memory.current"),
}
"""By version of cgroups, the files with the limit and the use of a group."""


def cgroup_cores(membership: Path = MEMBERSHIP, mounted: Path = MOUNTED) -> float | None:
    """Return the least quota of processor time of any group, in cores; None if there is none.

    Args:
        membership: The file that names the groups of this process.
        mounted: The folder where the groups are mounted.
    """
    return _least("cpu", _quota, membership, mounted)


def cgroup_limit(membership: Path = MEMBERSHIP, mounted: Path = MOUNTED) -> int | None:
    """Return the least memory limit of any group, or None if there is none.

    Args:
        membership: The file that names the groups of this process.
        mounted: The folder where the groups are mounted.
    """
    return _least("memory", _memory_limit, membership, mounted)


def cgroup_free(membership: Path = MEMBERSHIP, mounted: Path = MOUNTED) -> int | None:
    """Return the least memory that is left to any group, or None if none has a limit.

    Page cache counts as free: the kernel drops it when the group needs the memory.

    Args:
        membership: The file that names the groups of this process.
        mounted: The folder where the groups are mounted.
    """
    return _least("memory", _memory_left, membership, mounted)


def _least(
    controller: str,
    read: Callable[[int, Path], Limit],
    membership: Path,
    mounted: Path,
) -> Limit | None:
    """Return the least of what `read` finds in the groups of a controller.

    Args:
        controller: What is limited, `memory` or `cpu`.
        read: Reads a limit, by the version and the folder of a group. A group for which it raises
            OSError or ValueError has no such limit.
        membership: The file that names the groups of this process.
        mounted: The folder where the groups are mounted.
    """
    found: list[Limit] = []
    for version, folder in _groups(controller, membership, mounted):
        with contextlib.suppress(OSError, ValueError):
            found.append(read(version, folder))
    return min(found, default=None)


def _groups(controller: str, membership: Path, mounted: Path) -> Iterator[tuple[int, Path]]:
    """Yield the version and folder of every group that may limit this process, innermost first."""
    with contextlib.suppress(OSError, ValueError):
        for line in os.fsdecode(membership.read_bytes()).removesuffix("\n").split("\n"):
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            root = mounted / (controller if controllers else "")
            group = root / path.lstrip("/")
            for folder in (group, *group.parents):
                if not folder.is_relative_to(root):
                    break
                yield (1 if controllers else 2), folder


def _quota(version: int, folder: Path) -> float:
    if version == 2:
        quota, period = map(int, (folder / "cpu.max").read_text().split())
    else:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    if quota <= 0 or period <= 0:
        raise ValueError(f"{folder} has no quota")
    return quota / period


def _memory_limit(version: int, folder: Path) -> int:
    return int((folder / _MEMORY_FILES[version][0]).read_text())


def _memory_left(version: int, folder: Path) -> int:
    limit, used = (int((folder / name).read_text()) for name in _MEMORY_FILES[version])
    return min(max(limit - used + _reclaimable(folder), 0), limit)


def _reclaimable(folder: Path) -> int:
    """Return the page cache of a cgroup and of those below it; 0 if it does not tell.

    Version 1 counts a group alone under a plain name, and with those below it under `total_`.
    Dirty pages are left out, as they have to be written first, and so is a file in memory
    (tmpfs), which is in neither list of files.
    """
    sizes: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            sizes[name] = int(value)
    prefix = "total_" if "total_inactive_file" in sizes else ""
    cache = sum(sizes.get(f"{prefix}{kind}_file", 0) for kind in ("active", "inactive"))
    waiting = ("file_dirty", "file_writeback") if not prefix else ("total_dirty", "total_writeback")
    return max(cache - sum(sizes.get(name, 0) for name in waiting), 0)

"""What this machine has to give: cores, memory, disk. Figures in bytes."""

import contextlib
import os
import sys
from pathlib import Path

MEMORY_SHARE = 0.8
"""How much of what is free a run takes by default: other processes live here too."""


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def resident_bytes() -> int:
    """Memory that this process holds now; its peak where the system does not tell more."""
    return _status("VmRSS") or peak_bytes()


def peak_bytes() -> int:
    """The most memory that this process has held; 0 where the system does not tell.

    From /proc where it is: `ru_maxrss` of a child begins at what its parent held.
    """
    peak = _status("VmHWM")
    if peak:
        return peak
    try:
        import resource
    except ImportError:
        return 0
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024


def free_memory() -> int | None:
    """What the host or this process's cgroup has free, the smaller; None where unknown."""
    free = [value for value in (_meminfo("MemAvailable"), _cgroup_free()) if value is not None]
    return min(free, default=None)


def default_max_memory(beside: int = 1) -> int | None:
    """What a run may take unless it is told: what it has already, and a share of what is free.

    `beside` processes of the run share it.
    """
    free = free_memory()
    return None if free is None else resident_bytes() + int(free * MEMORY_SHARE / beside)


def free_disk(folder: Path) -> int | None:
    """What a user may still write at `folder` or its nearest ancestor that exists, in bytes."""
    stats = _disk_at(folder)
    return stats.f_bavail * stats.f_frsize if stats else None


def free_inodes(folder: Path) -> int | None:
    """Files that a user may still make there; None where unknown, or where nobody counts."""
    stats = _disk_at(folder)
    return stats.f_favail if stats and stats.f_files else None


def _disk_at(folder: Path) -> "os.statvfs_result | None":
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return os.statvfs(folder)
    except (AttributeError, OSError):
        return None


def file_size_limit() -> int | None:
    """The largest file that this process may write (RLIMIT_FSIZE); None where there is no limit."""
    try:
        import resource
    except ImportError:
        return None
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def is_mount_point(path: Path) -> bool:
    """Whether something is mounted there; also what lies on the same file system (bind mounts)."""
    if path.is_mount():
        return True
    with contextlib.suppress(OSError):
        place = os.path.realpath(path)
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            mounted = line.split()[4].encode().decode("unicode_escape", "replace")
            if mounted == place:
                return True
    return False


def started(pid: int) -> str | None:
    """When a process of this host was started, in clock ticks; None where there is no such one.

    Empty where the system does not tell.
    """
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    if Path("/proc/self/stat").exists():
        return None
    if os.name == "posix":
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            return ""
    return ""


def _status(key: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return 0


def _meminfo(key: str) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return None


def _cgroup_free() -> int | None:
    """What the memory controller of cgroup v2 or v1 leaves, along the path to its root."""
    free: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in ("", "memory") and "memory" not in controllers.split(","):
                continue
            root = Path("/sys/fs/cgroup", "memory" if controllers else "")
            names = (
                ("memory.limit_in_bytes", "memory.usage_in_bytes")
                if controllers
                else ("memory.max", "memory.current")
            )
            group = root / path.lstrip("/")
            for folder in (group, *group.parents):
                if not folder.is_relative_to(root):
                    break
                with contextlib.suppress(OSError, ValueError):
                    limit, used = (int((folder / name).read_text()) for name in names)
                    free.append(max(limit - used, 0))
    return min(free, default=None)

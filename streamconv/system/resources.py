"""The resources of this machine that a process may use: memory and disk. Sizes in bytes."""

import contextlib
import os
import sys
from pathlib import Path

from streamconv.errors import IOFailed
from streamconv.system.cgroups import cgroup_free, cgroup_limit
from streamconv.units import show_size

MIN_ADDRESS_SPACE = 100_000_000
"""Address space that numpy, its library and two threads take."""

MEMORY_SHARE = 0.8
"""The share of the free memory that a run uses by default. Other processes need the rest."""


def require_address_space() -> None:
    """Refuse to run if numpy would not fit into RLIMIT_AS: its library ends the process then.

    Raises IOFailed.
    """
    import resource

    limit, used = resource.getrlimit(resource.RLIMIT_AS)[0], _status("VmSize")
    if limit != resource.RLIM_INFINITY and limit - used < MIN_ADDRESS_SPACE:
        raise IOFailed(
            f"cannot start: the process may address {show_size(limit)} and has "
            f"{show_size(max(limit - used, 0))} left; a run takes "
            f"{show_size(MIN_ADDRESS_SPACE)} more",
            "lift the limit with `ulimit -v unlimited`",
        )


def resident_bytes() -> int:
    """Return the memory of this process, or its peak if the system reports only that."""
    return _status("VmRSS") or peak_bytes()


def peak_bytes() -> int:
    """Return the peak memory of this process, or 0 if the system does not report it.

    /proc is preferred, because `ru_maxrss` of a child process starts at the peak of its parent.
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
    """Return the free memory of the host or of this cgroup, the smaller; None if unknown."""
    free = [value for value in (_meminfo("MemAvailable"), cgroup_free()) if value is not None]
    return min(free, default=None)


def total_memory() -> int | None:
    """Return the memory of the host or the limit of its cgroup, the smaller; None if unknown."""
    limits = [value for value in (_meminfo("MemTotal"), cgroup_limit()) if value is not None]
    return min(limits, default=None)


def default_max_memory(processes: int = 1) -> int | None:
    """Return the default memory limit of a process, or None if the free memory is unknown.

    It is the memory that this process has already, plus its equal part of MEMORY_SHARE of the free
    memory.

    Args:
        processes: How many processes of the run share this host.
    """
    free = free_memory()
    return None if free is None else resident_bytes() + int(free * MEMORY_SHARE / processes)


def free_disk(folder: Path) -> int | None:
    """Return the bytes that this user may still write at `folder`; None if unknown.

    If the folder does not exist, its nearest ancestor that does counts.
    """
    stats = _disk_at(folder)
    return stats.f_bavail * stats.f_frsize if stats else None


def free_inodes(folder: Path) -> int | None:
    """Return how many files may still be created there; None if unknown or not limited."""
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
    """Return the largest file that this process may write (RLIMIT_FSIZE); None if unlimited."""
    try:
        import resource
    except ImportError:
        return None
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def start_time(pid: int) -> str | None:
    """Return the start time of a process of this host, in clock ticks since boot.

    Returns None if there is no such process, and empty text if the system does not tell its time.
    """
    with contextlib.suppress(OSError):
        return "\n".join(_lines(f"/proc/{pid}/stat")).rpartition(")")[2].split()[19]
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


def _lines(path: str) -> list[str]:
    """Return the lines of a file in /proc. Names of processes and groups are in any encoding."""
    return os.fsdecode(Path(path).read_bytes()).removesuffix("\n").split("\n")


def _status(key: str) -> int:
    """Return a size from /proc/self/status, or 0."""
    with contextlib.suppress(OSError, ValueError):
        for line in _lines("/proc/self/status"):
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return 0


def _meminfo(key: str) -> int | None:
    """Return a size from /proc/meminfo, or None."""
    with contextlib.suppress(OSError, ValueError):
        for line in _lines("/proc/meminfo"):
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return None

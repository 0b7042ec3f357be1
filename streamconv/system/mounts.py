"""The mount points of this machine. Their names are in any encoding."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")
MOUNT_POINT_FIELD = 4
_OCTAL = re.compile(rb"\\([0-7]{3})")


def is_mount_point(path: Path) -> bool:
    """Return True if something is mounted there, also from the same file system (bind mount)."""
    return os.path.ismount(path) or Path(os.path.realpath(path)) in mount_points()


def mount_points() -> frozenset[Path]:
    """Return every mount point that the system lists, without links; none if it lists none."""
    with contextlib.suppress(OSError):
        listed = listed_mount_points(MOUNTINFO.read_bytes())
        return frozenset(Path(os.fsdecode(path)) for path in listed)
    return frozenset()


def listed_mount_points(mountinfo: bytes) -> Iterator[bytes]:
    """Yield the mount points that the content of /proc/self/mountinfo lists.

    The kernel writes a few characters, such as spaces, as a backslash and three octal digits, and
    all other bytes as they are. Source: proc(5).
    """
    for line in mountinfo.split(b"\n"):
        fields = line.split(b" ")
        if len(fields) > MOUNT_POINT_FIELD:
            yield _OCTAL.sub(lambda m: bytes([int(m[1], 8) & 0xFF]), fields[MOUNT_POINT_FIELD])

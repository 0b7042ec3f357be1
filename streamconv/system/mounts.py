"""The mount points of this machine. Their names are in any encoding."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")
DEVICE_FIELD, MOUNT_POINT_FIELD, TYPE_FIELD = 2, 4, -3
"""Where a line has them; some lines have more fields in the middle. Source: proc(5)."""
LOCAL_LOCKS = frozenset((b"localflock", b"local_lock=flock", b"local_lock=all"))
"""Options of Lustre and NFS with which a lock excludes only processes of its own host."""
LARGEST_FILES = dict.fromkeys((b"vfat", b"msdos"), 2**32 - 1)
"""Bytes of the largest file, by the type of the file system, where models may have larger ones."""
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


def has_local_locks(device: int) -> bool:
    """Return True if locks on the files of a device are those of this host alone.

    Args:
        device: The device of one of the files, as its status has it.
    """
    return not LOCAL_LOCKS.isdisjoint(_type_and_options(device)[1])


def largest_file(folder: Path) -> int | None:
    """Return the bytes of the largest file that the file system at a folder takes.

    If the folder does not exist, its nearest ancestor that does counts. None if no limit is known.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    with contextlib.suppress(OSError):
        return LARGEST_FILES.get(_type_and_options(folder.stat().st_dev)[0])
    return None


def _type_and_options(device: int) -> tuple[bytes, list[bytes]]:
    """Return type and options of the file system on a device; empty if the system lists none."""
    number = f"{os.major(device)}:{os.minor(device)}".encode("ascii")
    with contextlib.suppress(OSError):
        for line in MOUNTINFO.read_bytes().split(b"\n"):
            fields = line.split(b" ")
            if len(fields) > MOUNT_POINT_FIELD and fields[DEVICE_FIELD] == number:
                return fields[TYPE_FIELD], fields[-1].split(b",")
    return b"", []


def listed_mount_points(mountinfo: bytes) -> Iterator[bytes]:
    """Yield the mount points that the content of /proc/self/mountinfo lists.

    The kernel writes a few characters, such as spaces, as a backslash and three octal digits, and
    all other bytes as they are. Source: proc(5).
    """
    for line in mountinfo.split(b"\n"):
        fields = line.split(b" ")
        if len(fields) > MOUNT_POINT_FIELD:
            yield _OCTAL.sub(lambda m: bytes([int(m[1], 8) & 0xFF]), fields[MOUNT_POINT_FIELD])

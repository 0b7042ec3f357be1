"""Why this process cannot remove a file or folder, as far as it can be known beforehand."""

import contextlib
import os
import stat
import struct
import sys
from pathlib import Path

if sys.platform == "linux":
    import fcntl

GET_FLAGS = 0x80086601
"""The ioctl `FS_IOC_GETFLAGS` for 64 bits. Source: linux/fs.h."""
IMMUTABLE, APPEND_ONLY = 0x10, 0x20
"""Flags of a file that nobody can remove, as `chattr +i` and `+a` set them."""


def obstacle(
    path: Path, status: os.stat_result, mounted: frozenset[Path], *, any_owner: bool = False
) -> str:
    """Return why this process cannot remove a path; empty if no reason is known.

    Args:
        path: The file or folder.
        status: Its status, with links not followed.
        mounted: All mount points.
        any_owner: True if files of other users may be removed, too.
    """
    if stat.S_ISLNK(status.st_mode):
        return "a link"
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        return "neither a file nor a folder"
    if not any_owner and hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        return f"owned by user {status.st_uid}"
    return "a mount point" if path in mounted else _protection(path, status)


def is_kept_by_sticky_bit(status: os.stat_result, above: os.stat_result) -> bool:
    """Return True if only another user may rename or remove an entry of a folder.

    In a folder with the sticky bit, such as /tmp, only root, the owner of the entry, and that of
    the folder may do so.

    Args:
        status: The status of the entry.
        above: The status of the folder.
    """
    user = os.geteuid() if hasattr(os, "geteuid") else 0
    return bool(above.st_mode & stat.S_ISVTX) and user not in (0, status.st_uid, above.st_uid)


def _protection(path: Path, status: os.stat_result) -> str:
    """Return the permission or flag that protects a file or folder; empty if there is none."""
    if stat.S_ISDIR(status.st_mode) and not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return "a folder that is not writable"
    if has_protecting_flag(path):
        return "immutable or append-only"
    return ""


def has_protecting_flag(path: Path) -> bool:
    """Return True if a file or folder is immutable or append-only."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                answer = fcntl.ioctl(fd, GET_FLAGS, bytes(8))
            finally:
                os.close(fd)
            return bool(struct.unpack("=q", answer)[0] & (IMMUTABLE | APPEND_ONLY))
    return False

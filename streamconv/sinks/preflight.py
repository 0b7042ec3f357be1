"""Checks of the target before anything is written, so that a long run does not fail at its end.

Nothing is changed on disk here, so a crash leaves nothing. A target is refused if the result
cannot be renamed to it, if the disk has too little room, or if a shard is larger than the process
may write; a source, if a file to copy cannot be read. What changes after the check shows when the
result is written, see `os_errors`.
"""

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from streamconv.errors import IOFailed, NoSpace, OutputExists, quoted
from streamconv.planning.plan import Plan
from streamconv.sinks.overlap import ReadPath, check_apart
from streamconv.sinks.run_paths import RunPaths, target_of
from streamconv.system.file_ops import Files
from streamconv.system.mounts import is_mount_point, largest_file
from streamconv.system.removability import has_protecting_flag
from streamconv.system.resources import file_size_limit, free_disk, free_inodes
from streamconv.units import show_size

SPARE_SHARE = 0.01
"""Free space beyond the planned bytes, as a share of them, for index, manifest and metadata."""
SPARE_FILES = 16
"""Free inodes beyond the planned files, for index, manifest, journals and folders."""


def check_location(target: Path, reads: Iterable[ReadPath], files: Files, parts: int = 1) -> None:
    """Check that a folder can be renamed to the target.

    Args:
        target: The absolute path of the target.
        reads: The paths that the run reads.
        files: The file operations.
        parts: How many parts the run has.

    Raises:
        OutputExists: The target overlaps what is read, is a link, a file or a mount point, or has
            a name that a run to another target uses.
        IOFailed: Nothing can be written next to the target.
        OSError: The target cannot be looked at.
    """
    parent = _nearest(target, files)
    if other := target_of(target.name):
        raise OutputExists(
            f"cannot write to {quoted(str(target))}: a conversion to {quoted(other)} next to it "
            "uses that name for its own files, and may remove it",
            "name another folder",
        )
    _check_length(RunPaths(target), parent, parts)
    check_apart(RunPaths(target), reads)
    if not files.is_folder(parent):
        raise IOFailed(
            f"cannot create {target}: {parent} is not a folder", "name a folder below another one"
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise IOFailed(
            f"cannot create {target}: {parent} is not writable",
            "change its permissions, or name another folder",
        )
    if has_protecting_flag(parent):
        raise IOFailed(
            f"cannot create {target}: {parent} is immutable or append-only, so nothing in it can "
            "be renamed",
            f"run `chattr -i -a {quoted(str(parent))}`, or name another folder",
        )
    if files.is_link(target):
        real = Path(os.path.realpath(target))
        raise OutputExists(
            f"cannot write to {target}: it is a link",
            "remove it, or name a folder" if files.is_link(real) else f"name the folder: {real}",
        )
    if files.exists(target) and not files.is_folder(target):
        raise OutputExists(
            f"cannot write to {target}: it is a file", "name a folder that does not exist yet"
        )
    if is_mount_point(target):
        raise OutputExists(
            f"cannot write to {target}: it is a mount point, and no folder can be renamed to one",
            "name a folder inside of it",
        )


def _nearest(target: Path, files: Files) -> Path:
    """Return the nearest path above the target that exists. Raises IOFailed for a broken link."""
    for folder in target.parents:
        if files.exists(folder):
            return folder
        if files.is_link(folder):
            raise IOFailed(
                f"cannot create {target}: {folder} is a link that leads nowhere",
                "remove it, or name another folder",
            )
    raise AssertionError("the root exists")


def _check_length(paths: RunPaths, parent: Path, parts: int) -> None:
    """Raise IOFailed if a name that the run uses next to the target is too long for the system."""
    most = 0
    with suppress(AttributeError, OSError):  # not every system tells
        most = os.pathconf(parent, "PC_NAME_MAX")
    length = len(os.fsencode(paths.target.name))
    added = len(os.fsencode(paths.longest_name(parts))) - length
    if 0 < most < length + added:
        raise IOFailed(
            f"cannot create {quoted(str(paths.target))}: its name is too long, as the run adds "
            f"{added} bytes to it for its own files",
            f"name a folder with at most {most - added} bytes in its name",
        )


def check_readable(plan: Plan, reads: Iterable[ReadPath]) -> None:
    """Check that the files to copy can be read, which is done when all shards are written.

    Args:
        plan: The conversion.
        reads: The paths of this machine that the run reads; files on others are not checked.

    Raises:
        IOFailed: A file may not be read.
    """
    role = "--template" if plan.checkpoint.template else "source"
    for read in reads:
        names = {*read.names} if read.role == role else frozenset[str]()
        for other in plan.copied:
            path = read.path / other.name
            if other.name in names and path.exists() and not os.access(path, os.R_OK):
                raise IOFailed(
                    f"cannot read {quoted(str(path))}: {os.strerror(errno.EACCES)}",
                    "change its permissions, or move it away",
                )


def check_room(plan: Plan, left: int, folder: Path, reclaimed: int) -> None:
    """Check that the disk has room for the result.

    A quota counts only if the system includes it in the free space; otherwise writing fails later.

    Args:
        plan: The conversion.
        left: Bytes that are still to be written.
        folder: The folder that will hold the result.
        reclaimed: Bytes that are freed before the first shard is written.

    Raises:
        NoSpace: Bytes or inodes do not suffice, or a shard is larger than the process may write, or
            than the file system takes.
    """
    largest = max((shard.nbytes for shard in plan.shards), default=0)
    limit = file_size_limit()
    if limit is not None and limit < largest:
        raise NoSpace(
            f"cannot write to {quoted(str(folder))}: the largest file has {show_size(largest)}, "
            f"but this process may write at most {show_size(limit)} to a file",
            "lift the limit with `ulimit -f unlimited`, or choose a smaller --max-shard-size",
        )
    most = largest_file(folder)
    if most is not None and most < largest:
        raise NoSpace(
            f"cannot write to {quoted(str(folder))}: the largest file has {show_size(largest)}, "
            f"but its file system takes at most {show_size(most)} in one",
            "choose a smaller --max-shard-size, or name a folder on another file system",
        )
    need, free = int(left * (1 + SPARE_SHARE)), free_disk(folder)
    if free is not None and free + reclaimed < need:
        raise NoSpace(
            f"cannot write to {folder}: {show_size(need)} needed, "
            f"{show_size(free + reclaimed)} free",
            "make room on the disk, or name a folder on another one",
        )
    count, inodes = len(plan.shards) + len(plan.copied) + SPARE_FILES, free_inodes(folder)
    if inodes is not None and inodes < count:
        raise NoSpace(
            f"cannot write to {folder}: {count} files needed, the file system has room for "
            f"{inodes}",
            "remove files, or choose a larger --max-shard-size",
        )

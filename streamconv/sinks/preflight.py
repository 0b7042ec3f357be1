"""What is refused about a target before anything is written."""

import os
from pathlib import Path

from streamconv.errors import IOFailed, NoSpace, OutputExists, quoted
from streamconv.planning.plan import Plan
from streamconv.system.file_ops import Files
from streamconv.system.resources import file_size_limit, free_disk, free_inodes, is_mount_point
from streamconv.units import show_size

PARTIAL_SUFFIX = ".streamconv-partial"
"""Of the folder beside a place in which its result is built."""
SPARE_SHARE = 0.01
"""How much more than the planned bytes has to be free: index, manifest, the file system's own."""
SPARE_FILES = 16
"""How many more files than the planned ones have to fit: index, manifest, journal, folders."""


def check_location(target: Path, source: str, files: Files) -> None:
    """Refuse a place where no folder can be moved to. Raises OutputExists, IOFailed or OSError."""
    real, origin = Path(os.path.realpath(target)), Path(os.path.realpath(source))
    if real == origin or real.is_relative_to(origin) or origin.is_relative_to(real):
        raise OutputExists(f"{target} and the source {origin} lie in one another")
    above = next(folder for folder in target.parents if files.exists(folder))
    if not files.is_folder(above) or not os.access(above, os.W_OK | os.X_OK):
        raise IOFailed(f"{target} cannot be made: {above} is no folder to write to")
    if files.is_link(target):
        raise OutputExists(f"{target} is a link", f"name the folder itself: {real}")
    if files.exists(target) and not files.is_folder(target):
        raise OutputExists(f"{target} is a file", "name a folder that is not there yet")
    if is_mount_point(target):
        raise OutputExists(
            f"{target} is a mount point, and the result is moved to its place whole",
            "name a folder inside of it",
        )


def check_room(plan: Plan, left: int, folder: Path, reclaimed: int) -> None:
    """Refuse a disk on which `left` bytes and the plan's files will not fit. Raises NoSpace.

    `reclaimed` bytes are taken now by what is removed first. A quota shows where the system
    counts it into what is free; else when it is met.
    """
    largest = max((shard.nbytes for shard in plan.shards), default=0)
    limit = file_size_limit()
    if limit is not None and limit < largest:
        raise NoSpace(
            f"{quoted(str(folder))}: the largest file has {show_size(largest)}, this process may "
            f"write {show_size(limit)} to a file",
            "`ulimit -f unlimited` lifts it; or choose another --max-shard-size",
        )
    need, free = int(left * (1 + SPARE_SHARE)), free_disk(folder)
    if free is not None and free + reclaimed < need:
        raise NoSpace(f"{folder}: {show_size(need)} needed, {show_size(free + reclaimed)} free")
    files, inodes = len(plan.shards) + len(plan.copied) + SPARE_FILES, free_inodes(folder)
    if inodes is not None and inodes < files:
        raise NoSpace(f"{folder}: {files} files needed, the file system has room for {inodes}")

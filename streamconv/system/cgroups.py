"""The cgroups of this process, of version 1 or 2."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

MEMBERSHIP = Path("/proc/self/cgroup")
"""The file that names the groups of this process."""
MOUNTED = Path("/sys/fs/cgroup")
"""The folder where the groups are mounted."""


def group_folders(
    controller: str, membership: Path = MEMBERSHIP, mounted: Path = MOUNTED
) -> Iterator[tuple[int, Path]]:
    """Yield the version and folder of every group that may limit this process, innermost first.

    Args:
        controller: What is limited, `memory` or `cpu`.
        membership: The file that names the groups of this process.
        mounted: The folder where the groups are mounted.
    """
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

"""The identity of files and folders: equal for every path that leads to the same one.

One folder may have several paths: by `..`, links, and bind mounts. Device and inode are the same
for all of them.
"""

import errno
import os
import stat
from pathlib import Path

Identity = tuple[int, int]
"""Device and inode."""
NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""The errors for a path at which nothing can be."""
MAX_LINKS = 40
"""How many links Linux follows in one path."""


def identity_of(path: Path) -> Identity | None:
    """Return the identity of a path, with links followed; None if nothing exists there."""
    try:
        found = path.stat()
    except ValueError:  # a null character
        return None
    except OSError as error:
        if error.errno not in NOT_THERE:
            raise
        return None
    return found.st_dev, found.st_ino


def identities_on_the_way(path: Path) -> dict[Identity, Path]:
    """Return the identities of all folders and links that a path leads through, and its own.

    The folders are those from the root on. The targets of links are followed in the same way. The
    search ends at the first name that does not exist.

    Args:
        path: An absolute path, or one from the working directory. It need not be normalized.

    Returns:
        For each identity, a path that has it.

    Raises:
        OSError: A folder refuses to answer.
    """
    found: dict[Identity, Path] = {}
    here = Path()
    rest = [*reversed((Path.cwd() / path).parts)]
    links = 0
    while rest:
        name = rest.pop()
        if name == os.pardir:
            here = here.parent
            continue
        step = here / name
        try:
            status = step.lstat()
        except (FileNotFoundError, NotADirectoryError):
            break
        found.setdefault((status.st_dev, status.st_ino), step)
        if not stat.S_ISLNK(status.st_mode):
            here = step
            continue
        links += 1
        if links > MAX_LINKS:
            break
        rest.extend(reversed(step.readlink().parts))
    return found

"""Which paths of a checkpoint folder may be read.

No name leads out of the folder, but for the links of the hub's cache, where a snapshot's files
are links to blobs beside it.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from streamconv.errors import BadCheckpoint, IOFailed, quoted
from streamconv.system.file_ops import Files

SHARD_SUFFIX = ".safetensors"
NO_FILE = (errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG)
"""What the system says of a name that is no file's, and not missing either."""


def is_shard_name(name: str) -> bool:
    """Whether a file name from the index is one of a shard below the folder."""
    return name.endswith(SHARD_SUFFIX) and is_below(name)


def is_below(name: str) -> bool:
    """Whether a file name from elsewhere stays below the folder on every system."""
    windows = PureWindowsPath(name)
    parts = PurePosixPath(name).parts
    return (
        name.isprintable()
        and len(name) <= 255
        and not windows.drive
        and not windows.root
        and "\\" not in name
        and ":" not in name
        and bool(parts)
        and ".." not in parts
        and str(PurePosixPath(name)) == name
    )


@contextmanager
def convert_os_errors(what: str) -> Iterator[None]:
    """Turns what the system refuses about a path, `what` in messages, into IOFailed."""
    try:
        yield
    except OSError as error:
        raise IOFailed(f"{what}: looking at it failed: {error.strerror}") from error


def resolve_file(folder: Path, name: str, files: Files) -> tuple[Path, os.stat_result]:
    """The regular file that `name` is; refuses links that lead out of the checkpoint.

    Raises BadCheckpoint, or IOFailed where the system does not tell.
    """
    with convert_os_errors(quoted(name)):
        try:
            real = files.real_path(folder / name)
            info = files.stat(real)
        except FileNotFoundError:
            raise BadCheckpoint(f"{quoted(name)} is missing from {folder}") from None
        except OSError as error:
            if error.errno not in NO_FILE:
                raise
            raise BadCheckpoint(f"{quoted(name)} cannot be opened: {error.strerror}") from None
        root = files.real_path(folder)
    roots = [root]
    if root.parent.name == "snapshots":
        roots.append(root.parent.parent / "blobs")
    if not any(real.is_relative_to(allowed) for allowed in roots):
        raise BadCheckpoint(
            f"{quoted(name)} is a link to {quoted(str(real))}, outside of the checkpoint"
        )
    if not stat.S_ISREG(info.st_mode):
        raise BadCheckpoint(f"{quoted(name)} is not a regular file")
    return real, info

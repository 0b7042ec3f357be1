"""Which paths of a checkpoint folder may be read.

No name leads out of the folder. The one exception is the hub's cache, in which the files of a
snapshot are links to blobs:

    models--org--name/snapshots/COMMIT/model.safetensors -> ../../blobs/SHA256
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from streamconv.errors import BadCheckpoint, IOFailed, quoted
from streamconv.system.file_reads import FileReads

SHARD_SUFFIX = ".safetensors"
NOT_A_FILE = (errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG)
"""Errors of the system whose cause is the name, and not the disk."""


def is_shard_name(name: str) -> bool:
    """Return True if a name from an index is that of a shard below the folder."""
    return name.endswith(SHARD_SUFFIX) and is_below(name)


def is_below(name: str) -> bool:
    """Return True if a name from an untrusted file stays below the folder on every system."""
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
def convert_os_errors(path: str) -> Iterator[None]:
    """Replace an OSError by an IOFailed that names `path`."""
    try:
        yield
    except OSError as error:
        raise IOFailed(f"cannot look at {path}: {error.strerror}") from error


def resolve_file(folder: Path, name: str, files: FileReads) -> tuple[Path, os.stat_result]:
    """Return the path of a regular file, with links resolved, and its status.

    Raises:
        BadCheckpoint: It is missing, not a regular file, or a link out of the checkpoint.
        IOFailed: The file system does not answer.
    """
    with convert_os_errors(quoted(name)):
        try:
            real_path = files.real_path(folder / name)
            status = files.stat(real_path)
        except FileNotFoundError:
            raise BadCheckpoint(
                f"cannot read {quoted(name)}: it is missing from {folder}"
            ) from None
        except OSError as error:
            if error.errno not in NOT_A_FILE:
                raise
            raise BadCheckpoint(f"cannot open {quoted(name)}: {error.strerror}") from None
        root = files.real_path(folder)
    roots = [root]
    if root.parent.name == "snapshots":
        roots.append(root.parent.parent / "blobs")
    if not any(real_path.is_relative_to(allowed) for allowed in roots):
        raise BadCheckpoint(
            f"cannot read {quoted(name)}: it is a link to {quoted(str(real_path))}, outside of the "
            "checkpoint"
        )
    if not stat.S_ISREG(status.st_mode):
        raise BadCheckpoint(f"cannot read {quoted(name)}: it is not a regular file")
    return real_path, status

"""Which paths of a checkpoint folder may be read.

No name leads out of the folder, but for the links of the hub's cache, where a snapshot's files
are links to blobs beside it.
"""

import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath

from streamconv.errors import BadCheckpoint, quoted

SHARD_SUFFIX = ".safetensors"


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


def resolve_file(folder: Path, name: str) -> tuple[Path, os.stat_result]:
    """The regular file that `name` is; refuses links that lead out of the checkpoint."""
    path = folder / name
    try:
        real = path.resolve(strict=True)
        info = real.stat()
    except FileNotFoundError:
        raise BadCheckpoint(f"{quoted(name)} is missing from {folder}") from None
    except (OSError, RuntimeError) as error:
        raise BadCheckpoint(f"{quoted(name)} cannot be opened: {error}") from None
    root = folder.resolve()
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

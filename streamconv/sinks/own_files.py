"""Small files that runs leave next to their target: read whole, if they can be what runs write.

Anybody who may write to the folder can put something else there. A FIFO would block the reader, a
device may have no end, and a file may be larger than memory.
"""

import os
import stat
from pathlib import Path

from streamconv.errors import OutputExists, quoted
from streamconv.system.file_ops import Files

MAX_OWN_BYTES = 64_000_000
"""No journal or request is larger. A journal takes 45 bytes for each 8 MiB of output."""
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def read_own_file(path: Path, files: Files, limit: int = MAX_OWN_BYTES) -> bytes:
    """Read a file that a run has written.

    Args:
        path: The path of the file.
        files: The file operations.
        limit: The most bytes that it may have.

    Raises:
        FileNotFoundError: It does not exist.
        OutputExists: There is something else at the path, or the file is larger than the limit.
    """
    refuse_other_kinds(path, files)
    nbytes = files.stat(path).st_size
    if nbytes > limit:
        raise OutputExists(
            f"cannot read {quoted(str(path))}: it has {nbytes} bytes, no such file has over "
            f"{limit}",
            "look at it, then remove it",
        )
    return files.read_file(path)


def refuse_other_kinds(path: Path, files: Files) -> None:
    """Refuse what is no regular file. Raises OutputExists; nothing happens if nothing is there."""
    try:
        mode = files.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OutputExists(
            f"cannot use {quoted(os.fspath(path))}: it is {kind}, not a file that streamconv wrote",
            "look at it, then remove it",
        )

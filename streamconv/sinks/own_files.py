"""Small files that runs leave next to their target, read whole if they are not too large.

Anybody who may write to the folder can put something else there. The guard of these paths refuses
links and folders (`planted`), but a file may still be larger than memory.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from streamconv.errors import OutputExists, quoted
from streamconv.system.file_ops import Files

MAX_OWN_BYTES = 64_000_000
"""No journal or request is larger. A journal takes 45 bytes for each 8 MiB of output."""


def read_own_file(path: Path, files: Files, limit: int = MAX_OWN_BYTES) -> bytes:
    """Read a file that a run has written.

    Args:
        path: The path of the file, which `files` guards.
        files: The file operations.
        limit: The most bytes that it may have.

    Raises:
        FileNotFoundError: It does not exist.
        PlantedFile: There is something else at the path.
        OutputExists: The file is larger than the limit.
    """
    _check_size(path, files, limit)
    return files.read_file(path)


def own_lines(path: Path, files: Files) -> Iterator[bytes]:
    """Yield the lines of a file that a run has written, one at a time. Raises as above."""
    _check_size(path, files, MAX_OWN_BYTES)
    with os.fdopen(files.open_read(path), "rb") as file:
        yield from file


def _check_size(path: Path, files: Files, limit: int) -> None:
    nbytes = files.stat(path).st_size
    if nbytes > limit:
        raise OutputExists(
            f"cannot read {quoted(str(path))}: it has {nbytes} bytes, no such file has over "
            f"{limit}",
            "look at it, then remove it",
        )

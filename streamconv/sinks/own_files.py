"""Small files that runs leave next to their target, read whole if they are not too large.

Anybody who may write to the folder can put something else there. The guard of these paths refuses
links and folders (`planted`), but a file may still be larger than memory.
"""

from collections.abc import Generator
from pathlib import Path

from streamconv.errors import OutputExists, quoted
from streamconv.system.file_ops import Files

MAX_OWN_BYTES = 64_000_000
"""No journal or request is larger. A journal takes 45 bytes for each 8 MiB of output."""
_READ_BYTES = 1 << 16
"""Bytes that are read at once."""


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
    return files.read_file(path, limit)


def own_lines(path: Path, files: Files) -> Generator[bytes, None, None]:
    """Yield the lines of a file that a run has written, each with its end. Raises as above.

    The file is open until the last line, or until the generator is closed.
    """
    _check_size(path, files, MAX_OWN_BYTES)
    fd = files.open_read(path)
    try:
        buffer = memoryview(bytearray(_READ_BYTES))
        offset = 0
        parts: list[bytes] = []  # of the line that is not complete
        while count := files.read_into(fd, buffer, offset):
            offset += count
            *ends, rest = bytes(buffer[:count]).split(b"\n")
            for end in ends:
                yield b"".join((*parts, end, b"\n"))
                parts.clear()
            parts.append(rest)
        if last := b"".join(parts):
            yield last
    finally:
        files.close(fd)


def _check_size(path: Path, files: Files, limit: int) -> None:
    nbytes = files.stat(path).st_size
    if nbytes > limit:
        raise OutputExists(
            f"cannot read {quoted(str(path))}: it has {nbytes} bytes, no such file has over "
            f"{limit}",
            "look at it, then remove it",
        )

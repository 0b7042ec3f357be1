"""Whole files of a result: those that travel along from the source, and all of them read back."""

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from streamconv.checkpoint import OtherFile
from streamconv.files import Files
from streamconv.sources import Source

COPY_BYTES = 2**20
HASH_BYTES = 2**22


def make_folders(files: Files, folder: Path, name: str) -> None:
    """The folders between `folder` and the file that is called `name` below it."""
    for above in reversed(Path(name).parents[:-1]):
        with suppress(FileExistsError):
            files.make_folder(folder / above)


def copy_other(files: Files, folder: Path, source: Source, other: OtherFile) -> tuple[int, str]:
    """Copy a file that travels along into `folder`, durable; returns its bytes and digest."""
    from xxhash import xxh3_128

    buffer = memoryview(bytearray(COPY_BYTES))
    digest = xxh3_128()
    size = 0
    make_folders(files, folder, other.name)
    fd = files.create_small(folder / other.name)
    try:
        while count := source.read_other(other, buffer, size):
            digest.update(buffer[:count])
            files.append(fd, buffer[:count])
            size += count
        files.sync(fd)
    finally:
        files.close(fd)
    return size, digest.hexdigest()


def sha256_of(files: Files, folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of files in `folder`, by name, as they are read back."""
    buffer = memoryview(bytearray(HASH_BYTES))
    found = {}
    for name in names:
        digest = hashlib.sha256()
        position = 0
        fd = files.open_read(folder / name)
        try:
            while count := files.read_into(fd, buffer, position):
                digest.update(buffer[:count])
                position += count
        finally:
            files.close(fd)
        found[name] = digest.hexdigest()
    return found

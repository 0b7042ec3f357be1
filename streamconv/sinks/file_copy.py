"""Whole files of a result: those that travel along from the source, and all of them read back."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from streamconv.checkpoint.types import OtherFile
from streamconv.sources.base import Source
from streamconv.system.cancellation import CancelToken
from streamconv.system.file_ops import Files
from streamconv.system.readahead import ReadAhead

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


def sha256_of(files: Files, folder: Path, names: Sequence[str], jobs: int) -> dict[str, str]:
    """The SHA-256 of files in `folder`, by name, as they are read back, `jobs` of them at once."""
    cancel = CancelToken()

    def digest_of(name: str) -> str:
        digest = hashlib.sha256()
        fd = files.open_read(folder / name)
        try:
            block = min(files.stat(fd).st_size + 1, HASH_BYTES)
            with closing(ReadAhead(partial(files.read_into, fd), block, readers)) as ahead:
                while data := ahead.read(block):
                    cancel.check()
                    digest.update(data)
        finally:
            files.close(fd)
        return digest.hexdigest()

    with ThreadPoolExecutor(jobs, "reader") as readers, ThreadPoolExecutor(jobs, "hasher") as pool:
        try:
            return dict(zip(names, pool.map(digest_of, names), strict=True))
        except BaseException:
            cancel.set()
            raise

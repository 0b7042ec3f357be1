"""Whole files of the result: copies of the source's other files, and SHA-256 of all files.

Copies are written after all shards and are not in the journal. A crash leaves some of them in the
partial folder, whole or not; the next run removes them and copies all of them again.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from streamconv.checkpoint.types import OtherFile
from streamconv.errors import SourceChanged, quoted
from streamconv.sinks.base import HashEvent, HashProgress, HashStarted
from streamconv.sources.base import Source
from streamconv.system.cancellation import CancelToken
from streamconv.system.file_ops import Files
from streamconv.system.worker_threads import map_unordered

if TYPE_CHECKING:
    from concurrent.futures import Executor

COPY_BYTES = 2**20
HASH_BYTES = 2**22


def make_folders(files: Files, folder: Path, name: str) -> None:
    """Create the missing folders between `folder` and the file `name` in it.

    Args:
        files: The file operations.
        folder: A folder that exists.
        name: A relative path, such as `release/.metadata`.
    """
    for above in reversed(Path(name).parents[:-1]):
        with suppress(FileExistsError):
            files.make_folder(folder / above)


def copy_other(files: Files, folder: Path, source: Source, other: OtherFile) -> tuple[int, str]:
    """Copy a file of the source into `folder`, durable on return.

    Args:
        files: The file operations.
        folder: The partial folder.
        source: The source that the file belongs to.
        other: The file, which must not exist in `folder`.

    Returns:
        Its size in bytes, and its XXH3-128 in hexadecimal.
    """
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


def write_edited(
    files: Files, folder: Path, source: Source, other: OtherFile, planned: bytes, content: bytes
) -> tuple[int, str]:
    """Write a file of the source into `folder` with new content, durable on return.

    Args:
        files: The file operations.
        folder: The partial folder.
        source: The source that the file belongs to.
        other: The file, which must not exist in `folder`.
        planned: The content of the file when the conversion was planned.
        content: The new content.

    Returns:
        Its new size in bytes, and its XXH3-128 in hexadecimal.

    Raises:
        SourceChanged: The content of the file is not `planned` any more.
    """
    from xxhash import xxh3_128_hexdigest

    buffer = memoryview(bytearray(len(planned) + 1))
    count = source.read_other(other, buffer, 0)
    if buffer[:count] != planned:
        raise SourceChanged(f"{quoted(other.name)} has changed since it was planned")
    make_folders(files, folder, other.name)
    files.write_file(folder / other.name, content)
    return len(content), str(xxh3_128_hexdigest(content))


def sha256_of(
    files: Files, folder: Path, names: Sequence[str], jobs: int
) -> Generator[HashEvent, None, dict[str, str]]:
    """Read files back and hash them, several at the same time.

    Args:
        files: The file operations.
        folder: The partial folder.
        names: The files, as relative paths.
        jobs: How many are read at the same time; each takes two buffers of at most 4 MiB.

    Yields:
        First the bytes of all files, then the bytes that have been read.

    Returns:
        The SHA-256 of each file in hexadecimal, by name.
    """
    import hashlib
    from concurrent.futures import ThreadPoolExecutor

    from streamconv.system.readahead import ReadAhead

    cancel = CancelToken()
    digests: dict[str, str] = {}

    def hash_file(readers: "Executor", name: str) -> Iterator[HashEvent]:
        digest = hashlib.sha256()
        fd = files.open_read(folder / name)
        try:
            block = min(files.stat(fd).st_size + 1, HASH_BYTES)
            with closing(ReadAhead(partial(files.read_into, fd), block, readers)) as ahead:
                while data := ahead.read(block):
                    cancel.check()
                    digest.update(data)
                    yield HashProgress(len(data), name)
        finally:
            files.close(fd)
        digests[name] = digest.hexdigest()

    yield HashStarted(sum(files.stat(folder / name).st_size for name in names))
    with ThreadPoolExecutor(jobs, "reader") as readers:
        yield from map_unordered(iter(names), jobs, lambda: readers, hash_file, cancel)
    return {name: digests[name] for name in names}

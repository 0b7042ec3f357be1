"""A checkpoint that is not on this machine: headers by range, then tensors by range.

Nothing is stored on the way. Reads of a batch go out in the order of their offsets, neighbours
as one request; there are as many requests under way as there are workers.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, Protocol

from streamconv.checkpoint.types import MANIFEST, Checkpoint, OtherFile
from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.safetensors import LENGTH_BYTES, header_length
from streamconv.formats.strict_json import check_json_size, parse_json_object
from streamconv.sources.assembly import (
    CONFIG,
    ShardHeader,
    assemble,
    index_name,
    read_index,
    read_shard_header,
    shard_names,
)
from streamconv.sources.base import Read
from streamconv.sources.safe_paths import is_below
from streamconv.system.cancellation import CancelToken

LINK_BYTES = 5 * 2**19
"""What each worker takes to read: its connection's buffers, or a range on its way through."""
HEADERS_AT_ONCE = 8
"""How many headers are asked for at the same time."""


class RemoteFiles(Protocol):
    """Files that can be read by range; safe to use from several threads at once."""

    @property
    def location(self) -> str:
        """What the user calls them."""

    @property
    def revision(self) -> str | None:
        """The commit that they are read from, where there are commits."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of every file there is, by its path with slashes."""

    def is_cached(self, name: str) -> bool:
        """Whether a file is on this machine already."""

    def read_into(self, name: str, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill the buffers, one behind the other, from `offset` of a file.

        Raises IOFailed where it cannot be read, SourceChanged where it is another.
        """

    def check_unchanged(self) -> None:
        """Raises SourceChanged where a file is not what it was when it was listed."""

    def close(self) -> None:
        """Let go of all files."""


class RemoteSource:
    """Remote files, opened as a checkpoint."""

    def __init__(self, files: RemoteFiles, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._files = files

    def read(self, reads: Sequence[Read]) -> None:
        for name, offset, buffers in joined(reads):
            self._files.read_into(name, offset, buffers)

    def read_other(self, other: OtherFile, buffer: memoryview, start: int) -> int:
        count = max(min(len(buffer), other.size - start), 0)
        self._files.read_into(other.name, start, [buffer[:count]])
        return count

    def check_unchanged(self) -> None:
        self._files.check_unchanged()

    def close(self) -> None:
        self._files.close()


def joined(reads: Sequence[Read]) -> Iterator[tuple[str, int, list[memoryview]]]:
    """The reads in the order of files and offsets, each with the neighbours that follow it. Pure.

    File, offset in it, and the buffers that its bytes go to.
    """
    name, begin, end, buffers = "", 0, 0, list[memoryview]()
    for read in sorted(reads, key=lambda read: (read.info.file, read.info.offset + read.start)):
        offset = read.info.offset + read.start
        if buffers and (read.info.file, offset) == (name, end):
            buffers.append(read.buffer)
        else:
            if buffers:
                yield name, begin, buffers
            name, begin, buffers = read.info.file, offset, [read.buffer]
        end = offset + len(read.buffer)
    if buffers:
        yield name, begin, buffers


def open_remote(files: RemoteFiles, cancel: CancelToken) -> RemoteSource:
    """The checkpoint that the files are; `cancel` is what ends their reads.

    Raises BadCheckpoint where something is malformed, missing or contradicts itself.
    """
    for name in files.sizes:
        if not is_below(name):
            raise BadCheckpoint(f"{files.location}: {quoted(name)} is no name of a file below it")
    top = [name for name in files.sizes if "/" not in name]
    found = index_name(top, files.location)
    index = None if found is None else read_index(_object(files, found), found)
    names = shard_names(index, top, files.location)
    with ThreadPoolExecutor(HEADERS_AT_ONCE, "header") as pool, cancel.cancels_on_exit():
        headers = list(pool.map(lambda name: _read_header(files, name), names))
    checkpoint = assemble(
        files.location,
        headers,
        index,
        {name: _object(files, name) for name in (CONFIG, MANIFEST)},
        _others(files.sizes, set(names)),
    )
    remote = frozenset(name for name in files.sizes if not files.is_cached(name))
    return RemoteSource(
        files,
        replace(checkpoint, revision=files.revision, read_scratch_bytes=LINK_BYTES, remote=remote),
    )


def _others(sizes: Mapping[str, int], shards: set[str]) -> Iterable[OtherFile]:
    """All files but the shards, in the order of a walk through folders: files, then folders."""

    def key(name: str) -> list[tuple[bool, str]]:
        *folders, last = PurePosixPath(name).parts
        return [*((True, folder) for folder in folders), (False, last)]

    return (OtherFile(name, sizes[name]) for name in sorted(sizes, key=key) if name not in shards)


def _read_header(files: RemoteFiles, name: str) -> ShardHeader:
    if name not in files.sizes:
        raise BadCheckpoint(f"{quoted(name)} is missing from {files.location}")
    size = files.sizes[name]
    first = _bytes(files, name, 0, min(LENGTH_BYTES, size))
    length = header_length(first, size, quoted(name))
    return read_shard_header(name, _bytes(files, name, LENGTH_BYTES, length), size)


def _object(files: RemoteFiles, name: str) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    if name not in files.sizes:
        return {}
    check_json_size(files.sizes[name], quoted(name))
    return parse_json_object(_bytes(files, name, 0, files.sizes[name]), quoted(name))


def _bytes(files: RemoteFiles, name: str, offset: int, nbytes: int) -> bytes:
    buffer = bytearray(nbytes)
    files.read_into(name, offset, [memoryview(buffer)])
    return bytes(buffer)

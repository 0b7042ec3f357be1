"""A checkpoint on another machine: headers are read by range, and then tensors.

Nothing is stored locally. The reads of a batch are requested in the order of their offsets,
adjacent ones in one request. Each worker makes one request at a time. The link decides how many
of them are in flight (request_gate.py).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from streamconv.checkpoint.types import Checkpoint, OtherFile
from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.safetensors import LENGTH_BYTES
from streamconv.formats.safetensors_reader import header_length
from streamconv.formats.strict_json import check_json_size, parse_json_object
from streamconv.options import Opening
from streamconv.sources.assembly import OBJECTS, assemble
from streamconv.sources.base import Read
from streamconv.sources.other_files import bookkeeping_entry
from streamconv.sources.safe_paths import is_below
from streamconv.sources.shard_header import ShardHeader, placeholder_header, read_shard_header
from streamconv.sources.shard_index import find_index, read_index, shard_names, unlisted_names
from streamconv.system.cancellation import CancelToken

CONCURRENT_HEADERS = 8
"""How many headers are requested at a time."""


class RemoteFiles(Protocol):
    """Files that can be read by range. Several threads may read at the same time."""

    @property
    def location(self) -> str:
        """What the user calls the folder of the files."""

    @property
    def scratch_bytes(self) -> int:
        """What each worker needs to read: buffers of its connection, and bytes in transit."""

    @property
    def revision(self) -> str | None:
        """The commit that they are read from; None if there are no commits."""

    @property
    def local_paths(self) -> tuple[Path, ...]:
        """The paths of this machine that are read: folders of files, archives, caches."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of every file, by its path with slashes."""

    def is_cached(self, name: str) -> bool:
        """Return True if a file is on this machine already."""

    def read_into(self, name: str, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill the buffers in turn with consecutive bytes of a file, from `offset` on.

        Raises what `Source.read` raises.
        """

    def check_unchanged(self) -> None:
        """Check that every file is what it was when it was listed. Raises SourceChanged."""

    def close(self) -> None:
        """Release all files. Never raises."""


class RemoteSource:
    """A checkpoint whose files are read by range."""

    def __init__(self, files: RemoteFiles, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._files = files

    def read(self, reads: Sequence[Read]) -> None:
        for name, offset, buffers in merge_adjacent(reads):
            self._files.read_into(name, offset, buffers)

    def read_other(self, other: OtherFile, buffer: memoryview, start: int) -> int:
        count = max(min(len(buffer), other.size - start), 0)
        self._files.read_into(other.name, start, [buffer[:count]])
        return count

    def check_unchanged(self) -> None:
        self._files.check_unchanged()

    def close(self) -> None:
        self._files.close()


def merge_adjacent(reads: Sequence[Read]) -> Iterator[tuple[str, int, list[memoryview]]]:
    """Merge reads of consecutive bytes of a file, in the order of files and offsets.

    Yields:
        A file, an offset in it, and the buffers for the bytes from there on.
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


def open_remote(files: RemoteFiles, opening: Opening, cancel: CancelToken) -> RemoteSource:
    """Open the checkpoint that consists of the files.

    Args:
        files: All files of the checkpoint.
        opening: How they are opened.
        cancel: The token that ends their reads; set if one of several headers cannot be read.

    Raises:
        BadCheckpoint: Something is malformed, missing or contradicts itself.
        IOFailed: Reading failed.
    """
    for name in files.sizes:
        if not is_below(name):
            raise BadCheckpoint(
                f"cannot read {files.location}: it lists {quoted(name)}, which is no name of a "
                "file below it"
            )
    _check_folders(files)
    top_level = [name for name in files.sizes if "/" not in name]
    index_name = find_index(top_level, files.location)
    index = None if index_name is None else read_index(_index_object(files, index_name), index_name)
    shards = shard_names(index, top_level, files.location)
    unlisted = unlisted_names(index, top_level)
    added = unlisted if opening.add_unlisted else []
    with ThreadPoolExecutor(CONCURRENT_HEADERS, "header") as pool, cancel.cancels_on_exit():
        headers = list(pool.map(lambda name: _read_header(files, name), shards))
        others = list(pool.map(lambda name: _read_unlisted(files, name), unlisted))
    checkpoint = assemble(
        files.location,
        headers,
        index,
        {name: _json_text(files, name) for name in OBJECTS if name in files.sizes},
        _other_files(files.sizes, {*shards, *added}),
        others,
        opening,
    )
    return RemoteSource(
        files,
        replace(
            checkpoint,
            revision=files.revision,
            read_scratch_bytes=files.scratch_bytes,
            local_paths=tuple(map(str, files.local_paths)),
            remote=frozenset(name for name in files.sizes if not files.is_cached(name)),
        ),
    )


def _check_folders(files: RemoteFiles) -> None:
    """Refuse a name that is listed as a file, and as the folder of another one."""
    for name in files.sizes:
        for folder in PurePosixPath(name).parents:
            if str(folder) in files.sizes:
                raise BadCheckpoint(
                    f"cannot read {files.location}: it lists {quoted(str(folder))} as a file, and "
                    f"{quoted(name)} in a folder of that name"
                )


def _other_files(sizes: Mapping[str, int], shards: set[str]) -> Iterable[OtherFile]:
    """Yield what `other_files` yields for a local folder, in its order: files, then folders."""

    def key(name: str) -> list[tuple[bool, str]]:
        *folders, last = PurePosixPath(name).parts
        return [*((True, folder) for folder in folders), (False, last)]

    others = {bookkeeping_entry(name) or name for name in sizes if name not in shards}
    return (OtherFile(name, sizes.get(name, 0)) for name in sorted(others, key=key))


def _read_header(files: RemoteFiles, name: str) -> ShardHeader:
    if name not in files.sizes:
        raise BadCheckpoint(f"cannot read {quoted(name)}: it is missing from {files.location}")
    size = files.sizes[name]
    prefix = _read(files, name, 0, min(LENGTH_BYTES, size))
    length = header_length(prefix, size, quoted(name))
    return read_shard_header(name, _read(files, name, LENGTH_BYTES, length), size)


def _read_unlisted(files: RemoteFiles, name: str) -> ShardHeader:
    """Read the header of a file that the index leaves out, which may be anything."""
    try:
        return _read_header(files, name)
    except BadCheckpoint:
        return placeholder_header(name, files.sizes[name])


def _index_object(files: RemoteFiles, name: str) -> dict[str, Any]:
    return parse_json_object(_json_text(files, name), quoted(name))


def _json_text(files: RemoteFiles, name: str) -> bytes:
    """Read a file of JSON. Raises BadCheckpoint if it is too large."""
    check_json_size(files.sizes[name], quoted(name))
    return _read(files, name, 0, files.sizes[name])


def _read(files: RemoteFiles, name: str, offset: int, nbytes: int) -> bytes:
    buffer = bytearray(nbytes)
    files.read_into(name, offset, [memoryview(buffer)])
    return bytes(buffer)

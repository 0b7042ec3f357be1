"""A checkpoint in a local folder: safetensors shards, an index, and whatever lies beside them.

Nothing but headers and JSON is read to open one, nothing is ever run, and
no path leads out of the folder, but for the links of the hub's own cache.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from streamconv.checkpoint.types import MANIFEST, Checkpoint, OtherFile, SourceFile
from streamconv.errors import BadCheckpoint, IOFailed, SourceChanged, quoted
from streamconv.formats.safetensors import LENGTH_BYTES, header_length
from streamconv.formats.strict_json import check_json_size, parse_json_object
from streamconv.sources.assembly import (
    CONFIG,
    ShardHeader,
    assemble,
    header_digest,
    index_name,
    read_index,
    read_shard_header,
    shard_names,
)
from streamconv.sources.base import Read
from streamconv.sources.local_files import LocalFiles, check_size
from streamconv.sources.other_files import other_files
from streamconv.sources.safe_paths import convert_os_errors, resolve_file
from streamconv.system.file_ops import Files
from streamconv.system.linux_file_ops import system_files


class LocalSource:
    """A folder, opened. The descriptors of its shards are kept until it is closed."""

    def __init__(self, folder: Path, checkpoint: Checkpoint, files: Files) -> None:
        self.checkpoint = checkpoint
        self._files = files
        self._planned: dict[str, SourceFile | OtherFile] = {
            **{other.name: other for other in checkpoint.others},
            **{file.name: file for file in checkpoint.files},
        }
        self._disk = LocalFiles(folder, files, self._check_as_planned)

    def read(self, reads: Sequence[Read]) -> None:
        for read in reads:
            info, what = read.info, f"tensor {quoted(read.info.name)}"
            count = self._disk.read(info.file, info.offset + read.start, read.buffer, what)
            if count < len(read.buffer):
                raise SourceChanged(
                    f"{quoted(info.file)} has become shorter: {what} ended "
                    f"{len(read.buffer) - count} bytes early"
                )

    def read_other(self, other: OtherFile, buffer: memoryview, start: int) -> int:
        return self._disk.read(other.name, start, buffer)

    def check_unchanged(self) -> None:
        """See `Source`."""
        self._disk.check_unchanged()

    def close(self) -> None:
        self._disk.close()

    def _check_as_planned(self, name: str, fd: int, size: int) -> None:
        """A file is looked at again when it is opened, as what it said has been relied on."""
        planned = self._planned[name]
        check_size(name, planned.size, size)
        if isinstance(planned, SourceFile):
            raw = _header_bytes(self._files, fd, size, quoted(name))
            if header_digest(raw) != planned.digest:
                raise SourceChanged(
                    f"{quoted(name)} has changed since it was planned: its header is another"
                )


def open_folder(
    location: str,
    files: Files | None = None,
    *,
    folder: Path | None = None,
    revision: str | None = None,
) -> LocalSource:
    """The checkpoint in a local folder, which is `location` itself unless given.

    `revision` is the commit that the folder holds, where that is known.

    Raises BadCheckpoint where something is malformed, missing or contradicts itself.
    """
    folder = folder or Path(location)
    files = files or system_files()
    with convert_os_errors(location):
        if not files.is_folder(folder):
            fact = "is a file" if files.exists(folder) else "does not exist"
            raise BadCheckpoint(f"{location}: {fact}", "give the folder of a checkpoint")
        top = files.names(folder)
    name = index_name(top, location)
    index = None if name is None else read_index(json_object(folder, name, files), name)
    shards = shard_names(index, top, location)
    checkpoint = assemble(
        location,
        # one at a time: all headers together would be as large as the plan made from them
        (_read_header(folder, shard, files) for shard in shards),
        index,
        {what: json_object(folder, what, files) for what in (CONFIG, MANIFEST)},
        other_files(folder, set(shards), files),
    )
    return LocalSource(folder, replace(checkpoint, revision=revision), files)


def _read_header(folder: Path, name: str, files: Files) -> ShardHeader:
    path, info = resolve_file(folder, name, files)
    what = quoted(name)
    try:
        fd = files.open_read(path)
        try:
            raw = _header_bytes(files, fd, info.st_size, what)
        finally:
            files.close(fd)
    except OSError as error:
        raise IOFailed(f"{what}: reading its header failed: {error.strerror}") from error
    return read_shard_header(name, raw, info.st_size)


def _header_bytes(files: Files, fd: int, size: int, what: str) -> bytes:
    """The JSON of a file's header."""
    first = memoryview(bytearray(LENGTH_BYTES))
    count = files.read_into(fd, first, 0)
    raw = bytearray(header_length(bytes(first[:count]), size, what))
    if files.read_into(fd, memoryview(raw), LENGTH_BYTES) < len(raw):
        raise BadCheckpoint(f"{what}: the file ends inside its header")
    return bytes(raw)


def json_object(folder: Path, name: str, files: Files) -> dict[str, Any]:
    """A JSON object in the folder; empty where there is no such file."""
    with convert_os_errors(quoted(name)):
        if not files.exists(folder / name, follow=False):
            return {}
    path, info = resolve_file(folder, name, files)
    check_json_size(info.st_size, quoted(name))
    try:
        raw = files.read_file(path)
    except OSError as error:
        raise IOFailed(f"{quoted(name)}: reading failed: {error.strerror}") from error
    return parse_json_object(raw, quoted(name))

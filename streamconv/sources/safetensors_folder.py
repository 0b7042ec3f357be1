"""A checkpoint in a local folder: safetensors shards, an index, and other files.

Opening it reads headers and JSON alone. Nothing in it is ever run, and no path leads out of it,
except for the links of the hub's own cache.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from streamconv.checkpoint.types import (
    INDEX_SUFFIX,
    Checkpoint,
    OtherFile,
    SourceFile,
)
from streamconv.errors import IOFailed, SourceChanged, quoted
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.formats.strict_json import check_json_size, parse_json_object
from streamconv.options import Opening
from streamconv.sources.assembly import OBJECTS, assemble
from streamconv.sources.base import ByteRange, Read, merged
from streamconv.sources.local_files import LocalFiles, check_size
from streamconv.sources.no_checkpoint import (
    inner_checkpoints,
    no_such_path,
    no_tensors,
    not_a_folder,
    part_of_checkpoint,
)
from streamconv.sources.other_files import describes_weights, other_files
from streamconv.sources.safe_paths import SHARD_SUFFIX, convert_os_errors, resolve_file
from streamconv.sources.shard_header import (
    digest_of_open_shard,
    read_local_header,
    read_unlisted_header,
)
from streamconv.sources.shard_index import (
    Index,
    find_index,
    read_index,
    shard_count,
    shard_names,
    unlisted_names,
)
from streamconv.system.absolute_paths import absolute_path
from streamconv.system.file_reads import FileReads
from streamconv.system.linux_file_ops import system_files
from streamconv.system.maps import FilePart


class LocalSource:
    """A folder of safetensors. A bounded number of its shards stays open between reads."""

    def __init__(self, folder: Path, checkpoint: Checkpoint, files: FileReads) -> None:
        self.checkpoint = checkpoint
        self._files = files
        self._planned: dict[str, SourceFile | OtherFile] = {
            **{other.name: other for other in checkpoint.others},
            **{file.name: file for file in checkpoint.files},
        }
        self._local = LocalFiles(folder, files, self._check_as_planned)
        for file in checkpoint.files:
            self._local.watch(file.name)

    def read(self, reads: Sequence[Read]) -> None:
        for read in reads:
            info = read.info
            count = self._local.read(info.file, info.offset + read.start, read.buffer, info.name)
            if count < len(read.buffer):
                raise SourceChanged(
                    f"{quoted(info.file)} has become shorter: tensor {quoted(info.name)} ended "
                    f"{len(read.buffer) - count} bytes early"
                )

    def expect(self, ranges: Sequence[ByteRange]) -> None:
        for name, begin, end in merged(ranges):
            self._local.expect(name, begin, end - begin)

    def read_other(self, other: OtherFile, buffer: memoryview, start: int) -> int:
        return self._local.read(other.name, start, buffer)

    def mapped(self, ranges: Sequence[ByteRange]) -> memoryview | None:
        first = ranges[0]
        if any(each.info.cast is not None for each in ranges):
            return None
        if (first.info.offset + first.begin) % _width(first.info.dtype):
            return None
        return self._local.mapped(
            [
                FilePart(each.info.file, each.info.offset + each.begin, each.end - each.begin)
                for each in ranges
            ]
        )

    def check_file(self, name: str) -> None:
        self._local.check_file(name)

    def check_unchanged(self) -> None:
        self._local.check_unchanged()

    def close(self) -> None:
        self._local.close()

    def _check_as_planned(self, name: str, fd: int, size: int) -> None:
        """Check a file as it is opened: the plan was made from its size and its header."""
        planned = self._planned[name]
        check_size(name, planned.size, size)
        if isinstance(planned, OtherFile):
            return
        if digest_of_open_shard(self._files, fd, size, quoted(name)) != planned.digest:
            raise SourceChanged(
                f"{quoted(name)} has changed since it was planned: its header is another"
            )


def open_folder(
    location: str,
    opening: Opening | None = None,
    files: FileReads | None = None,
    *,
    folder: Path | None = None,
    revision: str | None = None,
    cache: tuple[Path, ...] = (),
) -> LocalSource:
    """Open the checkpoint in a local folder.

    Args:
        location: What the user calls it.
        opening: How its files are opened.
        files: The file operations to use.
        folder: The folder, if it is not `location` itself.
        revision: The commit that the folder holds, if it is known.
        cache: The paths of the cache that led to the folder, if it is in one.

    Raises:
        BadCheckpoint: There is no checkpoint, or something is malformed, missing or contradicts
            itself.
        IOFailed: Reading failed.
    """
    folder = folder or Path(location)
    files = files or system_files()
    with convert_os_errors(location):
        if not files.is_folder(folder):
            if not files.exists(folder):
                raise no_such_path(location, files)
            if not location.endswith(SHARD_SUFFIX):
                raise not_a_folder(location)
            return _open_file(location, opening or Opening(), files)
        top_level = files.names(folder)
        if not any(name.endswith((SHARD_SUFFIX, INDEX_SUFFIX)) for name in top_level):
            raise no_tensors(location, top_level, inner_checkpoints(folder, top_level, files))
    index_name = find_index(top_level, location)
    index = None if index_name is None else _read_index(folder, index_name, files)
    opening = opening or Opening()
    shards = shard_names(index, top_level, location)
    with convert_os_errors(location):
        unlisted = [n for n in unlisted_names(index, top_level) if not files.is_folder(folder / n)]
    added = unlisted if opening.add_unlisted else []
    checkpoint = assemble(
        location,
        # one at a time: all headers together would be as large as the plan made from them
        (read_local_header(folder, shard, files) for shard in shards),
        index,
        {name: raw for name in OBJECTS if (raw := read_json_file(folder, name, files)) is not None},
        other_files(folder, {*shards, *added}, files),
        (read_unlisted_header(folder, name, files) for name in unlisted),
        opening,
    )
    local_paths = tuple(str(absolute_path(path)) for path in (folder, *cache))
    checkpoint = replace(checkpoint, revision=revision, local_paths=local_paths)
    return LocalSource(folder, checkpoint, files)


def _open_file(location: str, opening: Opening, files: FileReads) -> LocalSource:
    """Open a single file of safetensors, with config.json and other files that describe it.

    Raises:
        BadCheckpoint: It is malformed, or one of several files of a checkpoint.
        IOFailed: Reading failed.
    """
    path = Path(location)
    folder, name = path.parent, path.name
    names = files.names(folder)
    index_name = find_index(names, str(folder))
    count = shard_count(name)
    if index_name is not None:
        index = _read_index(folder, index_name, files)
        count = max(count, len(index) if name in index else 1)
    if count > 1:
        raise part_of_checkpoint(location, count)
    objects = {n: raw for n in OBJECTS if (raw := read_json_file(folder, n, files)) is not None}
    with convert_os_errors(location):
        kept = [n for n in names if describes_weights(n) and not files.is_folder(folder / n)]
    others = [OtherFile(n, resolve_file(folder, n, files)[1].st_size) for n in kept if objects]
    checkpoint = assemble(
        location, [read_local_header(folder, name, files)], None, objects, others, (), opening
    )
    checkpoint = replace(checkpoint, local_paths=(str(absolute_path(location)),))
    return LocalSource(folder, checkpoint, files)


def _read_index(folder: Path, name: str, files: FileReads) -> Index:
    """Read the index of a folder. A function of its own, so that the text is dropped at once."""
    text = read_json_file(folder, name, files) or b""
    return read_index(parse_json_object(text, quoted(name)), name)


def read_json_file(folder: Path, name: str, files: FileReads) -> bytes | None:
    """Read a file of JSON in a folder; None if there is no such file.

    Raises:
        BadCheckpoint: The file is too large, or changes while it is read.
        IOFailed: Reading failed.
    """
    with convert_os_errors(quoted(name)):
        if not files.exists(folder / name, follow=False):
            return None
    path, status = resolve_file(folder, name, files)
    check_json_size(status.st_size, quoted(name))
    try:
        content = files.read_file(path, status.st_size + 1)
    except OSError as error:
        raise IOFailed(f"cannot read {quoted(name)}: {error.strerror}") from error
    if len(content) != status.st_size:
        raise SourceChanged(f"{quoted(name)} has changed while it was read")
    return content


def _width(dtype: str) -> int:
    """Return the multiple of bytes at which elements have to begin in memory."""
    return max(DTYPE_BITS[dtype] // 8, 1)

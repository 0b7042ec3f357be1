"""A checkpoint in a local folder: safetensors shards, an index, and whatever lies beside them.

The index's `weight_map` says which files count; where there is none, every `*.safetensors` at
the top level does. Nothing but headers and JSON is read to open one, nothing is ever run, and
no path leads out of the folder, but for the links of the hub's own cache.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from streamconv.checkpoint import (
    INDEX_SUFFIX,
    MANIFEST,
    Checkpoint,
    OtherFile,
    SourceFile,
    TensorInfo,
)
from streamconv.errors import BadCheckpoint, IOFailed, quoted
from streamconv.files import Files, system_files
from streamconv.formats.safetensors import (
    LENGTH_BYTES,
    Header,
    header_length,
    parse_header,
    parse_json,
)
from streamconv.records import Record, read_record, record_in_metadata
from streamconv.sources import Read
from streamconv.sources.others import other_files
from streamconv.sources.paths import SHARD_SUFFIX, is_plain, resolve_file

MAX_JSON_BYTES = 256_000_000
"""No index or config is larger; that of a model with 140,000 tensors has 13.5 MB."""


class LocalSource:
    """A folder, opened. The descriptors of its shards are kept until it is closed."""

    def __init__(self, folder: Path, checkpoint: Checkpoint, files: Files) -> None:
        self.checkpoint = checkpoint
        self._folder = folder
        self._files = files
        self._planned = {file.name: file for file in checkpoint.files}
        self._open: dict[str, int] = {}
        self._lock = threading.Lock()

    def read(self, reads: Sequence[Read]) -> None:
        for read in reads:
            self._read(read.info, read.start, read.buffer)

    def _read(self, info: TensorInfo, start: int, buffer: memoryview) -> None:
        try:
            fd = self._descriptor(info.file)
            count = self._files.read_into(fd, buffer, info.offset + start)
        except OSError as error:
            raise IOFailed(
                f"{quoted(info.file)}: reading tensor {quoted(info.name)} failed: {error.strerror}"
            ) from error
        if count < len(buffer):
            raise BadCheckpoint(
                f"{quoted(info.file)} has become shorter: tensor {quoted(info.name)} ended "
                f"{len(buffer) - count} bytes early"
            )

    def read_other(self, other: OtherFile, buffer: memoryview, start: int) -> int:
        try:
            fd = self._descriptor(other.name)
            return self._files.read_into(fd, buffer, start)
        except OSError as error:
            raise IOFailed(f"{quoted(other.name)}: reading failed: {error.strerror}") from error

    def close(self) -> None:
        with self._lock:
            for fd in self._open.values():
                self._files.close(fd)
            self._open.clear()

    def _descriptor(self, name: str) -> int:
        """The open file; a shard's header is read again, as what it says has been relied on."""
        with self._lock:
            if name not in self._open:
                fd = self._files.open_read(self._folder / name)
                self._open[name] = fd
                planned = self._planned.get(name)
                if planned is not None:
                    self._check_unchanged(fd, planned)
            return self._open[name]

    def _check_unchanged(self, fd: int, planned: SourceFile) -> None:
        size = os.fstat(fd).st_size
        if size != planned.size:
            raise BadCheckpoint(
                f"{quoted(planned.name)} has changed since it was planned: it had "
                f"{planned.size} bytes, it has {size}"
            )
        raw = _header_bytes(self._files, fd, size, quoted(planned.name))
        if _digest(raw) != planned.digest:
            raise BadCheckpoint(
                f"{quoted(planned.name)} has changed since it was planned: its header is another"
            )


def open_folder(location: str, files: Files | None = None) -> LocalSource:
    """The checkpoint in a local folder.

    Raises BadCheckpoint where something is malformed, missing or contradicts itself.
    """
    folder = Path(location)
    files = files or system_files()
    if not folder.is_dir():
        fact = "is a file" if folder.exists() else "does not exist"
        raise BadCheckpoint(f"{location}: {fact}", "give the folder of a checkpoint")
    index = _index(folder)
    names = sorted(index) if index is not None else _shards_at_top(folder)
    if not names:
        raise BadCheckpoint(
            f"{location}: no *.safetensors in it, and no index",
            "other formats have to be converted to safetensors first",
        )
    infos: dict[str, TensorInfo] = {}
    sources = []
    records: dict[str, Record | None] = {}
    for name in names:
        header, source = _read_header(folder, name, files)
        sources.append(source)
        records[name] = record_in_metadata(header.metadata, quoted(name))
        _add_tensors(infos, name, header, index)
    for name, missing in (index or {}).items():
        for tensor in missing:
            raise BadCheckpoint(
                f"tensor {quoted(tensor)}: the index says it is in {quoted(name)}, "
                "whose header does not have it"
            )
    checkpoint = Checkpoint(
        location=location,
        tensors=infos,
        files=tuple(sources),
        others=tuple(other_files(folder, set(names), sum(file.size for file in sources))),
        config=_object(folder, "config.json"),
        record=_record(folder, records),
        total_bytes=sum(info.nbytes for info in infos.values()),
    )
    return LocalSource(folder, checkpoint, files)


def _add_tensors(
    infos: dict[str, TensorInfo], file: str, header: Header, index: "_Index | None"
) -> None:
    """Take over a file's tensors, each struck off the index that it has to be in."""
    shared: dict[object, Any] = {}
    for entry in header.entries:
        name = entry.name if index is None else index[file].pop(entry.name, None)
        if name is None or name in infos:
            raise _misplaced(entry.name, file, infos, index or {})
        infos[name] = TensorInfo(
            name=name,
            dtype=entry.dtype,
            shape=shared.setdefault(entry.shape, entry.shape),
            file=file,
            offset=header.data_start + entry.begin,
            nbytes=shared.setdefault(entry.end - entry.begin, entry.end - entry.begin),
        )


def _misplaced(
    name: str, file: str, infos: Mapping[str, TensorInfo], index: "_Index"
) -> BadCheckpoint:
    """Why a tensor of a file cannot be taken over."""
    if name in infos:
        other = quoted(infos[name].file)
        return BadCheckpoint(f"tensor {quoted(name)} is in two files: {other} and {quoted(file)}")
    there = f"tensor {quoted(name)} is in {quoted(file)}"
    said = next((other for other, names in index.items() if name in names), None)
    if said is None:
        return BadCheckpoint(f"{there}, the index does not list it")
    return BadCheckpoint(f"{there}, the index says it is in {quoted(said)}")


_Index = dict[str, dict[str, str]]
"""Each file's tensors, name to name: the infos share these strings, a third of their memory."""


def _index(folder: Path) -> _Index | None:
    """The weight_map by file, or None where there is no index."""
    found = sorted(path.name for path in folder.glob(f"*{INDEX_SUFFIX}"))
    preferred = f"model{INDEX_SUFFIX}"
    if not found:
        return None
    if len(found) > 1 and preferred not in found:
        raise BadCheckpoint(f"{folder}: several indexes: {quoted(', '.join(found))}")
    name = preferred if preferred in found else found[0]
    weight_map = _object(folder, name).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadCheckpoint(
            f"{quoted(name)}: weight_map is not an object that maps tensors to files"
        )
    index: _Index = {}
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or (file not in index and not is_plain(file)):
            raise BadCheckpoint(
                f"{quoted(name)}: tensor {quoted(tensor)} is said to be in {quoted(str(file))}, "
                "which is not the name of a safetensors file below this folder"
            )
        index.setdefault(file, {})[tensor] = tensor
    return index


def _shards_at_top(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(SHARD_SUFFIX))


def _read_header(folder: Path, name: str, files: Files) -> tuple[Header, SourceFile]:
    path, info = resolve_file(folder, name)
    what = quoted(name)
    try:
        fd = files.open_read(path)
        try:
            raw = _header_bytes(files, fd, info.st_size, what)
        finally:
            files.close(fd)
    except OSError as error:
        raise IOFailed(f"{what}: reading its header failed: {error.strerror}") from error
    header = parse_header(raw, info.st_size, what)
    return header, SourceFile(name, info.st_size, _digest(raw))


def _header_bytes(files: Files, fd: int, size: int, what: str) -> bytes:
    """The JSON of a file's header."""
    first = memoryview(bytearray(LENGTH_BYTES))
    count = files.read_into(fd, first, 0)
    raw = bytearray(header_length(bytes(first[:count]), size, what))
    if files.read_into(fd, memoryview(raw), LENGTH_BYTES) < len(raw):
        raise BadCheckpoint(f"{what}: the file ends inside its header")
    return bytes(raw)


def _digest(header: bytes) -> str:
    from xxhash import xxh3_128_hexdigest

    return str(xxh3_128_hexdigest(header))


def _object(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object in the folder; empty where there is no such file."""
    if not (folder / name).is_symlink() and not (folder / name).exists():
        return {}
    what = quoted(name)
    path, info = resolve_file(folder, name)
    if info.st_size > MAX_JSON_BYTES:
        raise BadCheckpoint(f"{what}: {info.st_size} bytes, no such file has over {MAX_JSON_BYTES}")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise IOFailed(f"{what}: reading failed: {error.strerror}") from error
    parsed = parse_json(raw, what)
    if not isinstance(parsed, dict):
        raise BadCheckpoint(f"{what}: not a JSON object")
    return parsed


def _record(folder: Path, in_shards: Mapping[str, Record | None]) -> Record | None:
    """What the checkpoint says of its layouts, in its manifest and in every shard alike."""
    manifest = _object(folder, MANIFEST)
    said: dict[str, Record | None] = dict(in_shards)
    if manifest:
        said[MANIFEST] = read_record(manifest.get("record"), MANIFEST)
    first = next(iter(said))
    for where, record in said.items():
        if record != said[first]:
            raise BadCheckpoint(
                f"{quoted(where)} and {quoted(first)} say different things of the layouts in them",
                "were files of two checkpoints mixed?",
            )
    return said[first]

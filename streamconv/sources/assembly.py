"""Builds a checkpoint from its headers, its index and its list of files, wherever they are stored.

Each tensor has to be in the shard that the index names, and all shards and the manifest have to
record the same layouts. Nothing here reads a file.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from streamconv.checkpoint.layout_record import Record, record_in_metadata
from streamconv.checkpoint.manifest import recorded_layouts
from streamconv.checkpoint.types import (
    MANIFEST,
    Checkpoint,
    OtherFile,
    SourceFile,
    TensorInfo,
)
from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.safetensors import Header
from streamconv.formats.safetensors_reader import parse_header
from streamconv.sources.other_files import select_copied_files
from streamconv.sources.shard_index import Index

CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class ShardHeader:
    """The header of a file, and the file."""

    header: Header
    file: SourceFile


def read_shard_header(name: str, raw: bytes, size: int) -> ShardHeader:
    """Parse the header of a shard.

    Args:
        name: The name of the shard.
        raw: The JSON of its header.
        size: Bytes of the whole shard.

    Raises:
        BadCheckpoint: The header is malformed, or does not fit the size.
    """
    header = parse_header(raw, size, quoted(name))
    return ShardHeader(header, SourceFile(name, size, header_digest(raw)))


def header_digest(raw: bytes) -> str:
    """Return the xxh3-128 of a header as hex digits."""
    from xxhash import xxh3_128_hexdigest

    return str(xxh3_128_hexdigest(raw))


def assemble(
    location: str,
    headers: Iterable[ShardHeader],
    index: Index | None,
    objects: Mapping[str, Mapping[str, Any]],
    others: Iterable[OtherFile],
) -> Checkpoint:
    """Build the checkpoint that the headers describe.

    Args:
        location: What the user calls it.
        headers: Those of all shards, read one after the other.
        index: Emptied in the course, as each tensor is found.
        objects: Config and manifest by their names, empty if there are none.
        others: All files but the shards; iterated over last.

    Raises:
        BadCheckpoint: The headers, the index and the records contradict one another.
    """
    infos: dict[str, TensorInfo] = {}
    files = []
    records: dict[str, Record | None] = {}
    for shard in headers:
        name = shard.file.name
        files.append(shard.file)
        records[name] = record_in_metadata(shard.header.metadata, quoted(name))
        _add_tensors(infos, name, shard.header, index)
    for name, missing in (index or {}).items():
        for tensor in missing:
            raise BadCheckpoint(
                f"tensor {quoted(tensor)}: the index says it is in {quoted(name)}, "
                "whose header does not have it"
            )
    return Checkpoint(
        location=location,
        tensors=infos,
        files=tuple(files),
        others=tuple(select_copied_files(list(others), sum(file.size for file in files))),
        config=objects.get(CONFIG, {}),
        record=_common_record(objects.get(MANIFEST, {}), records),
        total_bytes=sum(info.nbytes for info in infos.values()),
    )


def _add_tensors(
    infos: dict[str, TensorInfo], file: str, header: Header, index: Index | None
) -> None:
    """Add the tensors of a file to `infos`, and remove each from the index."""
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
    name: str, file: str, infos: Mapping[str, TensorInfo], index: Index
) -> BadCheckpoint:
    """Return why a tensor of a file cannot be added."""
    if name in infos:
        return BadCheckpoint(
            f"tensor {quoted(name)} is in two files: {quoted(infos[name].file)} and {quoted(file)}"
        )
    other_file = next((other for other, names in index.items() if name in names), None)
    if other_file is None:
        return BadCheckpoint(
            f"tensor {quoted(name)} is in {quoted(file)}, the index does not list it"
        )
    return BadCheckpoint(
        f"tensor {quoted(name)} is in {quoted(file)}, the index says it is in {quoted(other_file)}"
    )


def _common_record(
    manifest: Mapping[str, Any], in_shards: Mapping[str, Record | None]
) -> Record | None:
    """Return the record that the manifest and every shard have. Raises BadCheckpoint."""
    records: dict[str, Record | None] = dict(in_shards)
    if manifest:
        records[MANIFEST] = recorded_layouts(manifest)
    first = next(iter(records))
    for name, record in records.items():
        if record != records[first]:
            raise BadCheckpoint(
                f"{quoted(name)} and {quoted(first)} say different things of the layouts in them",
                "check whether files of two checkpoints were mixed",
            )
    return records[first]

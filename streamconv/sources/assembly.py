"""A checkpoint put together from what was read of its files, wherever they lie. Pure.

The index's `weight_map` says which files count; where there is none, every `*.safetensors` at
the top level does.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from streamconv.checkpoint.layout_record import Record, read_record, record_in_metadata
from streamconv.checkpoint.types import (
    INDEX,
    INDEX_SUFFIX,
    MANIFEST,
    Checkpoint,
    OtherFile,
    SourceFile,
    TensorInfo,
)
from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.safetensors import Header, parse_header
from streamconv.sources.other_files import select_copied_files
from streamconv.sources.safe_paths import SHARD_SUFFIX, is_shard_name

CONFIG = "config.json"
SINGLE = f"model{SHARD_SUFFIX}"
"""The file that some readers take before they look for an index."""
_NUMBERED = re.compile(r"(.+)-([0-9]{1,9})-of-([0-9]{1,9})\.safetensors", re.S)

Index = dict[str, dict[str, str]]
"""Each file's tensors, name to name: the infos share these strings, a third of their memory."""


@dataclass(frozen=True, slots=True)
class ShardHeader:
    """One file's header, and the file."""

    header: Header
    file: SourceFile


def read_shard_header(name: str, raw: bytes, size: int) -> ShardHeader:
    """The header whose JSON is `raw`, of the file `name` of `size` bytes. Raises BadCheckpoint."""
    header = parse_header(raw, size, quoted(name))
    return ShardHeader(header, SourceFile(name, size, header_digest(raw)))


def header_digest(raw: bytes) -> str:
    """xxh3-128 of a header, as hex digits."""
    from xxhash import xxh3_128_hexdigest

    return str(xxh3_128_hexdigest(raw))


def index_name(names: Iterable[str], location: str) -> str | None:
    """Which of the files at the top level is the index; None where there is none."""
    found = sorted(name for name in names if name.endswith(INDEX_SUFFIX))
    if len(found) > 1 and INDEX not in found:
        raise BadCheckpoint(f"{location}: several indexes: {quoted(', '.join(found))}")
    return INDEX if INDEX in found else next(iter(found), None)


def read_index(fields: Mapping[str, Any], name: str) -> Index:
    """The weight_map by file. Raises BadCheckpoint."""
    weight_map = fields.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadCheckpoint(
            f"{quoted(name)}: weight_map is not an object that maps tensors to files"
        )
    index: Index = {}
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or (file not in index and not is_shard_name(file)):
            raise BadCheckpoint(
                f"{quoted(name)}: tensor {quoted(tensor)} is said to be in {quoted(str(file))}, "
                "which is not the name of a safetensors file below this folder"
            )
        index.setdefault(file, {})[tensor] = tensor
    return index


def shard_names(index: Index | None, names: Iterable[str], location: str) -> list[str]:
    """The files that hold the tensors, of those at the top level or of the index."""
    there = {name for name in names if name.endswith(SHARD_SUFFIX)}
    found = sorted(there if index is None else index)
    if not found:
        raise BadCheckpoint(
            f"{location}: no *.safetensors in it, and no index",
            "other formats have to be converted to safetensors first",
        )
    if index is None:
        _check_complete(found)
    elif SINGLE in there and SINGLE not in index:
        raise BadCheckpoint(
            f"{location}: {SINGLE} is there, and an index of other files: readers differ in which "
            "of them is the model",
            f"move {SINGLE} or the index away",
        )
    _check_case(found)
    return found


def _check_complete(names: Iterable[str]) -> None:
    """Refuse a part of a set of shards: without an index nothing else says what is missing."""
    sets: dict[tuple[str, str], dict[int, str]] = {}
    for name in names:
        numbered = _NUMBERED.fullmatch(name)
        if numbered is not None:
            stem, number, count = numbered.groups()
            sets.setdefault((stem, count), {})[int(number)] = name
    for (_, count), shards in sets.items():
        if len(shards) < int(count):
            missing = next(k for k in range(1, int(count) + 1) if k not in shards)
            raise BadCheckpoint(
                f"number {missing} is missing: {quoted(min(shards.values()))} is one of "
                f"{int(count)} files, of which {len(shards)} are here, and there is no index"
            )


def _check_case(names: Iterable[str]) -> None:
    """Refuse names that some file systems take for one another."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise BadCheckpoint(
                f"{quoted(other)} and {quoted(name)} are one file where case makes no difference"
            )


def assemble(
    location: str,
    headers: Iterable[ShardHeader],
    index: Index | None,
    objects: Mapping[str, Mapping[str, Any]],
    others: Iterable[OtherFile],
) -> Checkpoint:
    """The checkpoint that the headers describe; the index is used up.

    `objects` are the config and the manifest, where they are there; `others` all files but the
    shards, looked at last. Raises BadCheckpoint where they contradict one another.
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
        record=_record(objects.get(MANIFEST, {}), records),
        total_bytes=sum(info.nbytes for info in infos.values()),
    )


def _add_tensors(
    infos: dict[str, TensorInfo], file: str, header: Header, index: Index | None
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
    name: str, file: str, infos: Mapping[str, TensorInfo], index: Index
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


def _record(manifest: Mapping[str, Any], in_shards: Mapping[str, Record | None]) -> Record | None:
    """What the checkpoint says of its layouts, in its manifest and in every shard alike."""
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

"""Builds a checkpoint from its headers, its index and its list of files, wherever they are stored.

Each tensor has to be in the shard that the index names, and all shards and the manifest have to
record the same layouts. Nothing here reads a file.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from streamconv.catalog.checkpoint_files import CONFIG, QUANT_CONFIG
from streamconv.checkpoint.layout_record import Record, record_in_metadata
from streamconv.checkpoint.manifest import recorded_layouts
from streamconv.checkpoint.types import MANIFEST, Checkpoint, OtherFile, TensorInfo, UnlistedFile
from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.safetensors import Entry, Header
from streamconv.formats.strict_json import parse_json_object
from streamconv.options import Opening
from streamconv.sources.other_files import select_copied_files
from streamconv.sources.shard_header import ShardHeader
from streamconv.sources.shard_index import Index

OBJECTS = (CONFIG, QUANT_CONFIG, MANIFEST)
"""The JSON files that are read when a checkpoint is opened, if they are there."""


def assemble(
    location: str,
    headers: Iterable[ShardHeader],
    index: Index | None,
    texts: Mapping[str, bytes],
    others: Iterable[OtherFile],
    unlisted: Iterable[ShardHeader] = (),
    opening: Opening = Opening(),  # noqa: B008 - frozen
) -> Checkpoint:
    """Build the checkpoint that the headers describe.

    Args:
        location: What the user calls it.
        headers: The headers of all shards, read one at a time.
        index: The tensors of each file; each tensor is removed once it is found.
        texts: The bytes of the configs and manifest that exist, by file name.
        others: All files but the shards; iterated over last.
        unlisted: The headers of the files that the index leaves out.
        opening: Says if these files are added, and if contradictions are listed, not raised.

    Raises:
        BadCheckpoint: The headers, the index and the records contradict one another.
    """
    config, quant_config, manifest = (_object(texts.get(name), name) for name in OBJECTS)
    found = _Tensors(index, opening)
    files = []
    records: dict[str, Record | None] = {}
    for shard in headers:
        name = shard.file.name
        files.append(shard.file)
        records[name] = record_in_metadata(shard.header.metadata, quoted(name))
        found.add(name, shard.header)
    found.check_index()
    not_added = []
    for shard in unlisted:
        if opening.add_unlisted:
            files.append(shard.file)
            found.add_unlisted(shard.file.name, shard.header)
        else:
            not_added.append(UnlistedFile(shard.file.name, tuple(_tensors(shard))))
    return Checkpoint(
        location=location,
        tensors=found.infos,
        files=tuple(files),
        others=tuple(select_copied_files(list(others), sum(file.size for file in files))),
        config=config,
        config_text=texts.get(CONFIG, b""),
        quant_config=quant_config,
        record=_common_record(manifest, records),
        total_bytes=sum(info.nbytes for info in found.infos.values()),
        unlisted=tuple(not_added),
        added=tuple(found.added),
        unindexed=tuple(found.unindexed),
        index_total_size=None if index is None else index.total_size,
        contradictions=tuple(found.contradictions),
    )


def _object(raw: bytes | None, name: str) -> dict[str, Any]:
    """Return the JSON object of a file; an empty one if there is no such file."""
    return {} if raw is None else parse_json_object(raw, quoted(name))


@dataclass(slots=True)
class _Tensors:
    """The tensors found so far, and those in the index that have not been found yet."""

    index: Index | None
    opening: Opening
    infos: dict[str, TensorInfo] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)
    unindexed: list[str] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)

    def add(self, file: str, header: Header) -> None:
        """Add the tensors of a file, and remove each from the index.

        A tensor that the index leaves out is added too, unless another file has or should have it.
        """
        shared: dict[int, int] = {}
        infos, start = self.infos, header.data_start
        listed = None if self.index is None else self.index[file]
        for entry in header.entries:
            own = entry.name
            name = own if listed is None else listed.pop(own, None)
            if name is None and not self._is_elsewhere(own):
                name = own
                self.unindexed.append(name)
            if name is None or name in infos:
                self._contradict(_misplaced(own, file, infos, self.index or Index()))
            else:
                _, dtype, shape, begin, end = entry
                nbytes = end - begin
                nbytes = shared.setdefault(nbytes, nbytes)
                # this takes half the time of calling the class
                fields = (name, dtype, shape, file, start + begin, nbytes, None)
                infos[name] = tuple.__new__(TensorInfo, fields)

    def add_unlisted(self, file: str, header: Header) -> None:
        """Add the tensors of a file that the index leaves out. Raises BadCheckpoint."""
        self.added.append(file)
        shared: dict[int, int] = {}
        for entry in header.entries:
            other = self.infos.get(entry.name)
            if other is None:
                self.infos[entry.name] = _tensor_info(entry.name, entry, header, file, shared)
            else:
                self._contradict(
                    BadCheckpoint(
                        f"cannot add {quoted(file)}: tensor {quoted(entry.name)} is in it and in "
                        f"{quoted(other.file)}",
                        "move the file away that is not the model's, or leave out --add-unlisted",
                    )
                )
        if not header.entries:
            self._contradict(
                BadCheckpoint(
                    f"cannot add {quoted(file)}: it describes no tensors",
                    "download the file again, or leave out --add-unlisted",
                )
            )

    def check_index(self) -> None:
        """Raise BadCheckpoint if the index has a tensor that its file lacks."""
        for file, missing in (self.index or {}).items():
            for tensor in missing:
                self._contradict(
                    BadCheckpoint(
                        f"tensor {quoted(tensor)}: the index says it is in {quoted(file)}, "
                        "whose header does not have it",
                        "download that file again; if the model has no such tensor, remove it from "
                        "the weight_map",
                    )
                )

    def _is_elsewhere(self, name: str) -> bool:
        """Return True if another file has the tensor, or should have it according to the index."""
        return name in self.infos or any(name in names for names in (self.index or {}).values())

    def _contradict(self, problem: BadCheckpoint) -> None:
        """Raise a contradiction, or list it if the checkpoint is opened leniently."""
        if not self.opening.lenient:
            raise problem
        self.contradictions.append(problem.message)


def _tensors(shard: ShardHeader) -> Iterator[TensorInfo]:
    """Yield the tensors of a file that is not added to the checkpoint."""
    shared: dict[int, int] = {}
    for entry in shard.header.entries:
        yield _tensor_info(entry.name, entry, shard.header, shard.file.name, shared)


def _tensor_info(
    name: str, entry: Entry, header: Header, file: str, shared: dict[int, int]
) -> TensorInfo:
    """Return a tensor of a file; equal sizes are one object through `shared`."""
    _, dtype, shape, begin, end = entry
    nbytes = end - begin
    nbytes = shared.setdefault(nbytes, nbytes)
    return TensorInfo(name, dtype, shape, file, header.data_start + begin, nbytes)


def _misplaced(
    name: str, file: str, infos: Mapping[str, TensorInfo], index: Index
) -> BadCheckpoint:
    """Return why a tensor of a file cannot be added."""
    if name in infos:
        return BadCheckpoint(
            f"tensor {quoted(name)} is in two files: {quoted(infos[name].file)} and {quoted(file)}",
            "remove one of the two if it is a copy: nothing tells which of them is the model's. If "
            "each has a part of the tensor, for tensor parallelism, join them with what wrote them",
        )
    other_file = next(other for other, names in index.items() if name in names)
    return BadCheckpoint(
        f"tensor {quoted(name)} is in {quoted(file)}, the index says it is in {quoted(other_file)}",
        "correct the index, or download both files again",
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
                f"{quoted(name)} and {quoted(first)} record different layouts",
                "check if files of two checkpoints were mixed",
            )
    return records[first]

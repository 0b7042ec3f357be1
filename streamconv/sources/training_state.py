"""What a training run leaves in a DCP: the model in its state dict, its names, and the rest.

A tracker file may lead to the checkpoint. The state dict may have an entry `model`, and then that
is the model; else it is what does not belong to the run. Pure, but for `find_dcp`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamconv.catalog.presets import Prefixes
from streamconv.checkpoint.layout_record import Record, read_record
from streamconv.checkpoint.types import OtherFile
from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.dcp_metadata import DATA_SUFFIX, METADATA_FILE, Metadata
from streamconv.formats.dcp_tensors import StoredTensor
from streamconv.formats.strict_json import parse_json
from streamconv.sources.safe_paths import convert_os_errors, resolve_file
from streamconv.system.file_ops import Files
from streamconv.system.linux_file_ops import system_files

TRACKER = "latest_checkpointed_iteration.txt"
TRACKER_BYTES = 64
"""So much of it is read."""
MODEL = "model"
"""The entry of a training run's state dict that holds the model."""
RUN_STATE = ("optimizer", "optim", "lr_scheduler", "scheduler", "rng_state", "args")
"""Entries that belong to the training run where the model has no entry of its own."""


def find_dcp(location: str, files: Files | None = None) -> Path | None:
    """The folder of the DCP at `location`, which may lie below it; None where there is none.

    Raises BadCheckpoint for one that is not complete, or a tracker that leads nowhere.
    """
    with convert_os_errors(location):
        return _find_dcp(location, Path(location), files or system_files())


def _find_dcp(location: str, folder: Path, files: Files) -> Path | None:
    if files.exists(folder / METADATA_FILE):
        return folder
    if files.exists(folder / TRACKER):
        text = _tracked(folder, files)
        name = f"iter_{int(text):07d}" if text.isdecimal() and text.isascii() else text
        if name != text or text == "release":
            if not files.exists(folder / name / METADATA_FILE):
                raise BadCheckpoint(
                    f"{location}: {TRACKER} says {quoted(text)}, "
                    f"and {name} holds no {METADATA_FILE}"
                )
            return folder / name
        raise BadCheckpoint(
            f"{location}: {TRACKER} says {quoted(text)}, neither `release` nor a number"
        )
    if files.is_folder(folder) and any(n.endswith(DATA_SUFFIX) for n in files.names(folder)):
        raise BadCheckpoint(
            f"{location}: files of a DCP, but no {METADATA_FILE}: it was not saved to its end"
        )
    return None


def _tracked(folder: Path, files: Files) -> str:
    """What the file says that a training framework notes its last save in."""
    path, _ = resolve_file(folder, TRACKER, files)
    first = memoryview(bytearray(TRACKER_BYTES))
    fd = files.open_read(path)
    try:
        count = files.read_into(fd, first, 0)
    finally:
        files.close(fd)
    return bytes(first[:count]).decode("ascii", "replace").strip()


@dataclass(frozen=True, slots=True)
class StreamconvMetadata:
    """What a DCP says of itself that this package wrote; nothing in one of another's."""

    record: Record | None = None
    prefixes: Prefixes = field(default_factory=Prefixes)
    config: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)


def read_own(metadata: Metadata) -> StreamconvMetadata:
    """What this package wrote into it. Raises BadCheckpoint where that is something else."""
    if metadata.own is None:
        return StreamconvMetadata()
    said = parse_json(metadata.own.encode("utf-8", "surrogatepass"), METADATA_FILE)
    try:
        keys = said["keys"]
        prefixes = Prefixes(str(keys["hf_prefix"]), str(keys["dcp_prefix"]))
        record = read_record(said["manifest"]["record"], METADATA_FILE)
        return StreamconvMetadata(record, prefixes, dict(said["config"]), dict(said["manifest"]))
    except (KeyError, TypeError, ValueError):
        raise BadCheckpoint(
            f"{METADATA_FILE}: what it says of its own layouts is not what streamconv wrote"
        ) from None


def _of_model(path: tuple[str, ...], wrapped: bool) -> bool:
    """Whether an entry of a state dict, in which the model has one of its own or not, is of it."""
    return path[0] == MODEL if wrapped else len(path) == 1 or path[0] not in RUN_STATE


def _is_wrapped(metadata: Metadata) -> bool:
    return any(len(t.path) > 1 and t.path[0] == MODEL for t in metadata.tensors)


def model_tensors(metadata: Metadata, prefixes: Prefixes) -> Iterator[tuple[str, StoredTensor]]:
    """The model's tensors by their names outside of the DCP."""
    wrapped = _is_wrapped(metadata)
    seen: dict[str, str] = {}
    for stored in metadata.tensors:
        if not _of_model(stored.path, wrapped):
            continue
        key = ".".join(stored.path[1:] if wrapped else stored.path)
        name = prefixes.undo(key)
        if prefixes.apply(name) != key:
            raise BadCheckpoint(
                f"key {quoted(key)} does not begin with {quoted(prefixes.dcp)}, as all keys would",
                "say what they begin with: --dcp-prefix, '' for nothing",
            )
        if name in seen:
            raise BadCheckpoint(
                f"the keys {quoted(seen[name])} and {quoted(key)} are both {quoted(name)}"
            )
        seen[name] = key
        yield name, stored
    if not seen:
        raise BadCheckpoint(f"{METADATA_FILE}: there is no tensor in it that is a model's")


def left_out(metadata: Metadata) -> Iterator[OtherFile]:
    """What belongs to the training run, an entry of the state dict each."""
    wrapped = _is_wrapped(metadata)
    counts: Counter[str] = Counter()
    nbytes: Counter[str] = Counter()
    for tensor in metadata.tensors:
        if not _of_model(tensor.path, wrapped):
            counts[tensor.path[0]] += 1
            nbytes[tensor.path[0]] += sum(chunk.nbytes for chunk in tensor.chunks)
    for other in metadata.others:
        counts[other.path[0]] += 1
        nbytes[other.path[0]] += other.nbytes
    for entry, count in counts.items():
        things = "1 value" if count == 1 else f"{count:,} values"
        yield OtherFile(entry, nbytes[entry], f"{things} of the training run, not of the model")

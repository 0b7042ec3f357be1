"""Which files of a checkpoint hold its tensors.

The `weight_map` of the index says it. Without an index, all `*.safetensors` at the top level do:

    model.safetensors.index.json      {"weight_map": {"a": "model-00001-of-00002.safetensors", ...}}
    model-00001-of-00002.safetensors  a, b
    model-00002-of-00002.safetensors  c
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from streamconv.checkpoint.types import INDEX, INDEX_SUFFIX
from streamconv.errors import BadCheckpoint, quoted
from streamconv.sources.no_checkpoint import no_tensors
from streamconv.sources.safe_paths import SHARD_SUFFIX, is_shard_name

SINGLE_FILE = f"model{SHARD_SUFFIX}"
"""The file that some readers load without looking for an index."""
NATIVE_PREFIX = "consolidated"
"""Begins the names of files that have the weights in Mistral's own format."""
_NUMBERED = re.compile(r"(.+)-([0-9]{1,9})-of-([0-9]{1,9})\.safetensors", re.S)


class Index(dict[str, dict[str, str]]):
    """The tensors of each file, name to name.

    `TensorInfo` shares these strings, which saves a third of its memory.
    """

    total_size: Any = None
    """What it says of the bytes of all tensors, whatever that is; None if it says nothing."""


def find_index(names: Iterable[str], location: str) -> str | None:
    """Return which of the top-level files is the index, or None if none is.

    Raises BadCheckpoint if there are several, none of them called as usual.
    """
    found = sorted(name for name in names if name.endswith(INDEX_SUFFIX))
    if len(found) > 1 and INDEX not in found:
        raise BadCheckpoint(
            f"cannot read {location}: it has several indexes: {quoted(', '.join(found))}",
            "move all but one of them away",
        )
    return INDEX if INDEX in found else next(iter(found), None)


def read_index(fields: Mapping[str, Any], name: str) -> Index:
    """Return the tensors of each file, by the `weight_map` of the index called `name`.

    Raises BadCheckpoint if it is malformed, or names a file that is no shard below the folder.
    """
    weight_map = fields.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadCheckpoint(
            f"cannot read {quoted(name)}: weight_map is not an object that maps tensors to files"
        )
    index = Index()
    metadata = fields.get("metadata", {})
    index.total_size = metadata.get("total_size") if isinstance(metadata, dict) else metadata
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or (file not in index and not is_shard_name(file)):
            raise BadCheckpoint(
                f"cannot read {quoted(name)}: it says that tensor {quoted(tensor)} is in "
                f"{quoted(str(file))}, which is not the name of a safetensors file below this "
                "folder"
            )
        index.setdefault(file, {})[tensor] = tensor
    return index


def shard_names(index: Index | None, names: Iterable[str], location: str) -> list[str]:
    """Return the files that hold the tensors, sorted.

    Args:
        index: The index, if there is one.
        names: The top-level files.
        location: The checkpoint, for errors.

    Raises:
        BadCheckpoint: There are none, some are missing, or readers could disagree on them.
    """
    names = set(names)
    present = {name for name in names if name.endswith(SHARD_SUFFIX)}
    if index is None:
        present = {n for n in present if not n.startswith(NATIVE_PREFIX)} or present
    shards = sorted(present if index is None else index)
    if not shards:
        raise no_tensors(location, names)
    if index is None:
        _check_complete(shards, location)
    elif SINGLE_FILE in present and SINGLE_FILE not in index:
        raise BadCheckpoint(
            f"cannot read {location}: {SINGLE_FILE} is there, and an index of other files: "
            "readers differ in which of them is the model",
            f"move {SINGLE_FILE} or the index away",
        )
    _check_case(shards, location)
    return shards


def unlisted_names(index: Index | None, names: Iterable[str]) -> list[str]:
    """Return the top-level files of tensors that the index leaves out, sorted.

    Leaves out the files of another index, and copies of the weights in another format.

    Args:
        index: The index, if there is one.
        names: The top-level files.
    """
    if index is None:
        return []
    names = list(names)
    others = [
        name.removesuffix(INDEX_SUFFIX)
        for name in names
        if name.endswith(INDEX_SUFFIX) and name != INDEX and INDEX in names
    ]
    return sorted(
        name
        for name in names
        if name.endswith(SHARD_SUFFIX)
        and name not in index
        and not name.startswith((*others, NATIVE_PREFIX))
    )


def shard_count(name: str) -> int:
    """Return how many shards there are, by the name of a numbered one; 1 if it has no number."""
    numbered = _NUMBERED.fullmatch(name)
    return int(numbered[3]) if numbered else 1


def _check_complete(shards: Iterable[str], location: str) -> None:
    """Refuse an incomplete set of numbered shards.

    Without an index, only the numbers in the names tell that a shard is missing.
    """
    sets: dict[tuple[str, str], dict[int, str]] = {}
    for name in shards:
        numbered = _NUMBERED.fullmatch(name)
        if numbered is not None:
            stem, number, count = numbered.groups()
            sets.setdefault((stem, count), {})[int(number)] = name
    for (_, count), by_number in sets.items():
        if len(by_number) < int(count):
            missing = next(k for k in range(1, int(count) + 1) if k not in by_number)
            raise BadCheckpoint(
                f"cannot read {location}: number {missing} is missing: "
                f"{quoted(min(by_number.values()))} is one of {int(count)} files, of which "
                f"{len(by_number)} are here, and there is no index",
                "download the files that are missing",
            )


def _check_case(shards: Iterable[str], location: str) -> None:
    """Refuse names that are one file on systems that ignore case."""
    seen: dict[str, str] = {}
    for name in shards:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise BadCheckpoint(
                f"cannot read {location}: {quoted(other)} and {quoted(name)} are one file on "
                "systems that ignore case"
            )

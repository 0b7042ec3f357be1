"""Reads the `.metadata` of a torch.distributed.checkpoint folder.

The pickle is data here: no class is imported, nothing is run. Frameworks put values of their own
classes next to torch's, and subclass torch's own Metadata. Foreign values are held as data, and
never looked at.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.dcp_metadata import (
    BYTES,
    CHUNK,
    DIGEST_FIELD,
    DIGITS,
    ENCODING,
    INDEX,
    LAYOUT,
    METADATA,
    OLD,
    ORIGIN,
    PROPERTIES,
    SIZE,
    STORAGE_INFO,
    TAIL,
    TENSOR,
    digest_of,
)
from streamconv.formats.dcp_metadata_limits import CHUNK_NODES, Budget
from streamconv.formats.dcp_metadata_paths import Paths
from streamconv.formats.dcp_tensors import Chunk, StoredBytes, StoredTensor
from streamconv.formats.pickle_reader import read_pickle
from streamconv.formats.pickle_types import Global
from streamconv.formats.torch_archive import TORCH_DTYPES, sizes

_OTHER_DTYPES = ("complex32", "complex128", "qint8", "quint8", "qint32", "float4_e2m1fn_x2")
"""Dtypes that torch has and safetensors lacks. The state of a training run may name them."""

LAYOUTS = tuple(
    f"torch.{name}"
    for name in (
        *("strided", "sparse_coo", "_mkldnn", "jagged"),
        *("sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc"),
    )
)
"""The layouts of tensors in memory, as torch names them."""

ADMITTED = frozenset(
    {
        *(METADATA, TENSOR, BYTES, CHUNK, INDEX, PROPERTIES, ENCODING, ORIGIN),
        *(STORAGE_INFO, SIZE, LAYOUT, f"{OLD}TensorProperties", f"{OLD}MEM_FORMAT_ENCODING"),
        *(name for name, _ in TORCH_DTYPES.values()),
        *(f"torch.{name}" for name in _OTHER_DTYPES),
        *(f"pathlib.{name}" for name in ("PosixPath", "WindowsPath", "PurePosixPath")),
        *(f"pathlib._local.{name}" for name in ("PosixPath", "WindowsPath")),
    }
)
"""The names that torch itself writes. None of them is imported or called."""

_DTYPES = {name: dtype for dtype, (name, _) in TORCH_DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Metadata:
    """The contents of a `.metadata`."""

    tensors: tuple[StoredTensor, ...]
    others: tuple[StoredBytes, ...]
    own: str | None
    """What this package recorded, if it wrote the file."""
    has_digest: bool
    """True if the file has a digest of itself, which was checked."""


_Location = tuple[str, int, int]
"""File, offset and length in bytes."""
_Locations = Mapping[tuple[str, tuple[int, ...] | None], _Location]
"""By key and offsets of a chunk; the offsets of bytes are None."""


def read_metadata(raw: bytes, label: str) -> Metadata:
    """Read a `.metadata`, without running it.

    `check_chunks` checks later that the chunks of a tensor cover it.

    Args:
        raw: The bytes of the file.
        label: Names the file in errors.

    Raises:
        BadCheckpoint: The file is malformed or names something harmful, or the location of a
            chunk is missing.
    """
    root = read_pickle(raw, ADMITTED, label, holds_foreign=True)
    try:
        metadata = _parse_metadata(_root_fields(root), Budget(len(raw), label), label)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise BadCheckpoint(
            f"cannot read {label}: not the metadata of a torch.distributed.checkpoint: a field is "
            "missing, or is of another kind"
        ) from None
    if metadata.has_digest and not _is_as_written(raw):
        raise BadCheckpoint(
            f"cannot read {label}: its bytes do not have the digest that it was written with, so "
            "it has changed since",
            "restore the file, or convert again",
        )
    return metadata


def _is_as_written(raw: bytes) -> bool:
    """Return True if the file ends in the digest of all bytes before the digest."""
    begin = len(raw) - len(TAIL) - DIGITS
    return raw.endswith(TAIL) and raw[begin : -len(TAIL)] == digest_of(memoryview(raw)[:begin])


def _parse_metadata(fields: Mapping[str, Any], budget: Budget, label: str) -> Metadata:
    """Build the metadata from the fields of torch's class.

    This and the functions below raise BadCheckpoint for contradictions. For a field that is missing
    or of another type, they raise what Python raises.
    """
    tensors_by_key, storage = fields["state_dict_metadata"], fields["storage_data"]
    planner_data = fields.get("planner_data")
    if tensors_by_key is planner_data or tensors_by_key is storage:
        raise TypeError
    paths = Paths(planner_data, budget)
    locations = _parse_locations(storage, budget)
    tensors, others = [], []
    for key, entry in _consumed(tensors_by_key):
        path = paths.of(key)
        if entry.name == BYTES:
            others.append(StoredBytes(key, path, *_locate(locations, key, None)))
        else:
            fields_of = _fields(entry, TENSOR)
            tensors.append(_parse_tensor(key, path, fields_of, locations, budget))
    paths.check_keys(label)
    if (origin := fields.get("storage_meta")) is not None and origin.name != ORIGIN:
        raise TypeError
    own = fields.get("streamconv")
    has_digest = any(key == DIGEST_FIELD for key in fields)
    return Metadata(
        tuple(tensors), tuple(others), own if isinstance(own, str) else None, has_digest
    )


def _root_fields(root: Any) -> Mapping[str, Any]:
    """Return the fields of the root: of torch's class Metadata, or of a foreign subclass of it."""
    if root.name in ADMITTED:
        return _fields(root, METADATA)
    return _fields(root, root.name)


def _fields(value: Any, name: str) -> Mapping[str, Any]:
    """Return the fields of an object of the class `name`."""
    if value.name != name or not isinstance(value.state, dict):
        raise TypeError
    fields: Mapping[str, Any] = value.state
    if not all(isinstance(name, str) for name in fields):
        raise TypeError  # torch sets them as attributes
    return fields


def _consumed(values: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each pair of a dictionary and remove it, so that its memory can be used again.

    Raises TypeError if it is no dictionary.
    """
    if not isinstance(values, dict):
        raise TypeError
    for key in list(values):
        yield key, values.pop(key)


def _parse_locations(storage_data: Any, budget: Budget) -> _Locations:
    """Return the location of every chunk and of all other bytes."""
    locations = {}
    for index, info in _consumed(storage_data):
        chunk, location = _fields(index, INDEX), _fields(info, STORAGE_INFO)
        key, offsets = chunk["fqn"], chunk.get("offset")
        file = location["relative_path"]
        offset, nbytes = sizes((location["offset"], location["length"]))
        if not isinstance(file, str) or not isinstance(key, str):
            raise TypeError
        if extensions := location.get("transform_descriptors"):
            names = ", ".join(quoted(name) for name in extensions[:3] if isinstance(name, str))
            raise BadCheckpoint(
                f"cannot read tensor {quoted(key)}: it is stored transformed by {quoted(names)}, "
                "only plain bytes can be read",
                "save the checkpoint without extensions",
            )
        chunk_offsets = None if offsets is None else budget.sizes_in(offsets)
        locations[key, chunk_offsets] = (file, offset, nbytes)
    return locations


def _locate(locations: _Locations, key: str, offsets: tuple[int, ...] | None) -> _Location:
    """Return the location of a chunk. Raises BadCheckpoint if there is none."""
    location = locations.get((key, offsets))
    if location is not None:
        return location
    if offsets is None:
        raise BadCheckpoint(f"cannot read {quoted(key)}: the metadata names no file that holds it")
    raise BadCheckpoint(
        f"cannot read tensor {quoted(key)}: the metadata names no file that holds its chunk at "
        f"{list(offsets)}"
    )


def _parse_tensor(
    key: str,
    path: tuple[str, ...],
    fields: Mapping[str, Any],
    locations: _Locations,
    budget: Budget,
) -> StoredTensor:
    """Build a tensor from its fields. Chunks without elements are left out."""
    properties = fields["properties"]
    if properties.name not in (PROPERTIES, f"{OLD}TensorProperties"):
        raise TypeError
    dtype, layout, requires_grad, encoding, pin_memory = properties.state
    if not (
        isinstance(dtype, Global)
        and layout.name == LAYOUT
        and layout.args in ((name,) for name in LAYOUTS)
        and encoding.name in (ENCODING, f"{OLD}MEM_FORMAT_ENCODING")
        and encoding.args in ((0,), (1,), (2,))
        and all(isinstance(flag, bool) for flag in (requires_grad, pin_memory))
    ):
        raise TypeError  # torch, which restores them, could not read it
    shape = budget.sizes_in(fields["size"])
    chunks = []
    for chunk in fields["chunks"]:
        box = _fields(chunk, CHUNK)
        budget.spend(CHUNK_NODES)
        offsets, extent = budget.sizes_in(box["offsets"]), budget.sizes_in(box["sizes"])
        if math.prod(extent) or not math.prod(shape):
            chunks.append(Chunk(offsets, extent, *_locate(locations, key, offsets)))
    chunks.sort(key=lambda chunk: chunk.offsets)
    return StoredTensor(key, path, _DTYPES.get(dtype.name, dtype.name), shape, tuple(chunks))

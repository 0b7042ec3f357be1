"""The `.metadata` of a torch.distributed.checkpoint folder: which chunks make a tensor. Pure.

    Metadata
      state_dict_metadata   key -> dtype, shape and chunks (offsets and sizes) of a tensor,
                            or that it is bytes, a pickle of something else
      planner_data          key -> its path in the nested state dict
      storage_data          key and offsets of a chunk -> file, offset and length in bytes
      streamconv            what this package says of itself; other readers do not look at it

A pickle of torch's own classes, here read and written as data. Source:
`torch/distributed/checkpoint/metadata.py`, `filesystem.py` and `default_planner.py`.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.dcp_tensors import Chunk, StoredBytes, StoredTensor
from streamconv.formats.pickle_reader import read_pickle
from streamconv.formats.pickle_types import Global, Object
from streamconv.formats.pickle_writer import Pairs, write_pickle
from streamconv.formats.torch_archive import TORCH_DTYPES, sizes

METADATA_FILE = ".metadata"
DATA_SUFFIX = ".distcp"
VERSION = "1.0.0"
MAX_METADATA_BYTES = 256_000_000
"""No `.metadata` is larger; that of 70,000 tensors has 20 MB."""

_PACKAGE = "torch.distributed.checkpoint."
_METADATA, _TENSOR, _BYTES, _CHUNK, _INDEX, _PROPERTIES, _ENCODING, _ORIGIN = (
    f"{_PACKAGE}metadata.{name}"
    for name in (
        "Metadata",
        "TensorStorageMetadata",
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "MetadataIndex",
        "TensorProperties",
        "_MEM_FORMAT_ENCODING",
        "StorageMeta",
    )
)
_PLACE = f"{_PACKAGE}filesystem._StorageInfo"
_SIZE, _LAYOUT = "torch.Size", "torch.serialization._get_layout"
_OLD = "torch.distributed._shard.sharded_tensor.metadata."
"""Where torch before 2.3 had the properties of a tensor."""
_OTHER_DTYPES = ("complex32", "complex128", "qint8", "quint8", "qint32", "float4_e2m1fn_x2")
"""What torch has and safetensors has not: named where a training run's own state has them."""

ADMITTED = frozenset(
    {
        *(_METADATA, _TENSOR, _BYTES, _CHUNK, _INDEX, _PROPERTIES, _ENCODING, _ORIGIN),
        *(_PLACE, _SIZE, _LAYOUT, f"{_OLD}TensorProperties", f"{_OLD}MEM_FORMAT_ENCODING"),
        *(name for name, _ in TORCH_DTYPES.values()),
        *(f"torch.{name}" for name in _OTHER_DTYPES),
        *(f"pathlib.{name}" for name in ("PosixPath", "WindowsPath", "PurePosixPath")),
        *(f"pathlib._local.{name}" for name in ("PosixPath", "WindowsPath")),
    }
)
"""Every name that `.metadata` may hold. None of them is imported or called."""

_DTYPES = {name: dtype for dtype, (name, _) in TORCH_DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a `.metadata` says."""

    tensors: tuple[StoredTensor, ...]
    others: tuple[StoredBytes, ...]
    own: str | None
    """What this package wrote into it, where it did."""


# --- read --------------------------------------------------------------------------------------


def read_metadata(raw: bytes, what: str) -> Metadata:
    """What is in a `.metadata`; `what` names it in errors.

    Nothing is run, and whether chunks cover their tensor is left to `check_chunks`. Raises
    BadCheckpoint.
    """
    root = read_pickle(raw, ADMITTED, what)
    try:
        fields = _state(root, _METADATA)
        paths = fields.get("planner_data") or {}
        places = _places(fields["storage_data"])
        tensors, others = [], []
        for key, entry in fields["state_dict_metadata"].items():
            path = paths.get(key, (key,))
            # text of anything else may be longer than the memory of this machine
            if not isinstance(key, str) or not all(isinstance(part, str | int) for part in path):
                raise TypeError
            path = tuple(map(str, path))
            if entry.name == _BYTES:
                others.append(StoredBytes(key, path, *_place(places, key, None)))
            else:
                tensors.append(_tensor(key, path, _state(entry, _TENSOR), places))
        own = fields.get("streamconv")
    except (AttributeError, KeyError, TypeError, ValueError):
        raise BadCheckpoint(
            f"{what}: not the metadata of a torch.distributed.checkpoint: a field is missing, or "
            "is of another kind"
        ) from None
    return Metadata(tuple(tensors), tuple(others), own if isinstance(own, str) else None)


_Places = Mapping[tuple[str, tuple[int, ...] | None], tuple[str, int, int]]


def _state(value: Any, name: str) -> Mapping[str, Any]:
    """The fields of an object of a class."""
    if value.name != name or not isinstance(value.state, dict):
        raise TypeError
    fields: Mapping[str, Any] = value.state
    return fields


def _size(value: Any) -> tuple[int, ...]:
    """A `torch.Size`."""
    if value.name != _SIZE or len(value.args) != 1:
        raise TypeError
    return sizes(value.args[0])


def _places(stored: Any) -> _Places:
    """File, offset and length by key and offsets of a chunk."""
    places = {}
    for index, info in stored.items():
        at, where = _state(index, _INDEX), _state(info, _PLACE)
        key, offsets = at["fqn"], at.get("offset")
        file = where["relative_path"]
        offset, nbytes = sizes((where["offset"], where["length"]))
        if not isinstance(file, str) or not isinstance(key, str):
            raise TypeError
        if by := where.get("transform_descriptors"):
            names = ", ".join(name for name in by if isinstance(name, str))
            raise BadCheckpoint(
                f"{quoted(key)} is stored transformed, by {quoted(names)}: only plain bytes are "
                "read",
                "save it without extensions",
            )
        places[key, None if offsets is None else _size(offsets)] = (file, offset, nbytes)
    return places


def _place(places: _Places, key: str, offsets: tuple[int, ...] | None) -> tuple[str, int, int]:
    place = places.get((key, offsets))
    if place is None:
        at = "" if offsets is None else f" at {list(offsets)}"
        raise BadCheckpoint(f"tensor {quoted(key)}: no file is said to hold its chunk{at}")
    return place


def _tensor(
    key: str, path: tuple[str, ...], fields: Mapping[str, Any], places: _Places
) -> StoredTensor:
    properties = fields["properties"]
    if properties.name not in (_PROPERTIES, f"{_OLD}TensorProperties"):
        raise TypeError
    named = properties.state[0].name
    if not isinstance(properties.state[0], Global):
        raise TypeError
    shape = _size(fields["size"])
    chunks = []
    for chunk in fields["chunks"]:
        box = _state(chunk, _CHUNK)
        offsets, extent = _size(box["offsets"]), _size(box["sizes"])
        if math.prod(extent) or not math.prod(shape):
            chunks.append(Chunk(offsets, extent, *_place(places, key, offsets)))
    chunks.sort(key=lambda chunk: chunk.offsets)
    return StoredTensor(key, path, _DTYPES.get(named, named), shape, tuple(chunks))


# --- written -----------------------------------------------------------------------------------


def build_metadata(
    tensors: Iterable[StoredTensor], others: Iterable[StoredBytes], own: str
) -> bytes:
    """The `.metadata` that describes these tensors and others, in this order."""
    tensors, others = list(tensors), list(others)
    everything: list[StoredTensor | StoredBytes] = [*tensors, *others]
    fields = {
        "state_dict_metadata": Pairs((each.key, _described(each)) for each in everything),
        "planner_data": Pairs((each.key, each.path) for each in everything),
        "storage_data": Pairs(_stored(tensors, others)),
        "storage_meta": None,
        "version": VERSION,
        "streamconv": own,
    }
    return write_pickle(Object(_METADATA, (), fields))


_STRIDED = Object(_LAYOUT, ("torch.strided",))
_CONTIGUOUS = Object(_ENCODING, (0,))


def _described(tensor: StoredTensor | StoredBytes) -> Object:
    if isinstance(tensor, StoredBytes):
        return Object(_BYTES, ())
    dtype = Global(TORCH_DTYPES[tensor.dtype][0])
    chunks = [
        Object(_CHUNK, (), {"offsets": _sized(c.offsets), "sizes": _sized(c.sizes)})
        for c in tensor.chunks
    ]
    return Object(
        _TENSOR,
        (),
        {
            "properties": Object(_PROPERTIES, (), (dtype, _STRIDED, False, _CONTIGUOUS, False)),
            "size": _sized(tensor.shape),
            "chunks": chunks,
        },
    )


def _stored(
    tensors: Iterable[StoredTensor], others: Iterable[StoredBytes]
) -> Iterator[tuple[Object, Object]]:
    for tensor in tensors:
        for number, chunk in enumerate(tensor.chunks):
            at = {"fqn": tensor.key, "index": number, "offset": _sized(chunk.offsets)}
            yield Object(_INDEX, (), at), _placed(chunk.file, chunk.offset, chunk.nbytes)
    for other in others:
        at = {"fqn": other.key, "index": None}
        yield Object(_INDEX, (), at), _placed(other.file, other.offset, other.nbytes)


def _placed(file: str, offset: int, nbytes: int) -> Object:
    return Object(_PLACE, (), {"relative_path": file, "offset": offset, "length": nbytes})


@functools.lru_cache(maxsize=1024)
def _sized(values: tuple[int, ...]) -> Object:
    """A checkpoint has few shapes and many tensors of each."""
    return Object(_SIZE, (values,))

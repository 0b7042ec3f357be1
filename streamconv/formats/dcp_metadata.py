"""The `.metadata` of a torch.distributed.checkpoint folder: which chunks make a tensor.

    Metadata
      state_dict_metadata   key -> TensorStorageMetadata: dtype, shape, chunks (offsets and sizes)
                            key -> BytesStorageMetadata: a pickle of something else
      planner_data          key -> its path in the nested state dict
      storage_data          MetadataIndex (key, offsets of a chunk)
                            -> _StorageInfo (file, offset and length in bytes)
      streamconv            what this package records; other readers ignore it
      streamconv_digest     xxh3-128 of all bytes of the file before these 32 digits

The file is a pickle of torch's own classes. Here it is data: no class is imported, nothing is run.
Source: `torch/distributed/checkpoint/metadata.py`, `filesystem.py` and `default_planner.py`.
"""

import functools
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.dcp_tensors import Chunk, StoredBytes, StoredTensor
from streamconv.formats.pickle_reader import read_pickle
from streamconv.formats.pickle_types import Global, Object
from streamconv.formats.pickle_writer import Pairs, write_pickle
from streamconv.formats.safetensors import MAX_SIZE
from streamconv.formats.torch_archive import TORCH_DTYPES, sizes

METADATA_FILE = ".metadata"
DATA_SUFFIX = ".distcp"
VERSION = "1.0.0"
MAX_METADATA_BYTES = 256_000_000
"""No `.metadata` is larger. That of 70,000 tensors has 20 MB."""
NODES_PER_BYTE = 2
"""Values that are looked at, for each byte of a `.metadata`.

A pickle can refer to one list from any number of places, in two bytes each. An honest value takes
several bytes."""
CHUNK_NODES = 8
"""Values that a chunk counts as, in addition to its offsets and sizes."""

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
_STORAGE_INFO = f"{_PACKAGE}filesystem._StorageInfo"
_SIZE, _LAYOUT = "torch.Size", "torch.serialization._get_layout"
_OLD = "torch.distributed._shard.sharded_tensor.metadata."
"""The module of TensorProperties in torch before 2.3."""
_OTHER_DTYPES = ("complex32", "complex128", "qint8", "quint8", "qint32", "float4_e2m1fn_x2")
"""Dtypes that torch has and safetensors lacks. The state of a training run may name them."""

ADMITTED = frozenset(
    {
        *(_METADATA, _TENSOR, _BYTES, _CHUNK, _INDEX, _PROPERTIES, _ENCODING, _ORIGIN),
        *(_STORAGE_INFO, _SIZE, _LAYOUT, f"{_OLD}TensorProperties", f"{_OLD}MEM_FORMAT_ENCODING"),
        *(name for name, _ in TORCH_DTYPES.values()),
        *(f"torch.{name}" for name in _OTHER_DTYPES),
        *(f"pathlib.{name}" for name in ("PosixPath", "WindowsPath", "PurePosixPath")),
        *(f"pathlib._local.{name}" for name in ("PosixPath", "WindowsPath")),
    }
)
"""Every name that a `.metadata` may contain. None of them is imported or called."""

_DTYPES = {name: dtype for dtype, (name, _) in TORCH_DTYPES.items()}

_DIGEST_FIELD = "streamconv_digest"
_DIGITS = 32
_TAIL = b"ub."
"""What follows the digits: the end of the fields, of the object and of the pickle."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """The contents of a `.metadata`."""

    tensors: tuple[StoredTensor, ...]
    others: tuple[StoredBytes, ...]
    own: str | None
    """What this package recorded, if it wrote the file."""
    has_digest: bool
    """True if the file has a digest of itself, which was checked."""


# --- read --------------------------------------------------------------------------------------


class _Budget:
    """The number of values that may still be looked at, so that time is linear in the bytes."""

    def __init__(self, nbytes: int, label: str) -> None:
        self._left = NODES_PER_BYTE * nbytes
        self._label = label

    def spend(self, nodes: int) -> None:
        """Count values that are looked at. Raises BadCheckpoint if there are too many."""
        self._left -= nodes
        if self._left < 0:
            raise BadCheckpoint(
                f"cannot read {self._label}: it repeats its lists: more values than "
                f"{NODES_PER_BYTE} for each of its bytes",
                "check where the file comes from; no program that saves checkpoints writes this",
            )

    def sizes_in(self, value: Any) -> tuple[int, ...]:
        """Return the numbers in a `torch.Size`, which count."""
        if value.name != _SIZE or len(value.args) != 1:
            raise TypeError
        found = sizes(value.args[0])
        self.spend(len(found))
        return found


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
        BadCheckpoint: The file is malformed or names what no checkpoint needs, or the location of a
            chunk is missing.
    """
    root = read_pickle(raw, ADMITTED, label)
    try:
        metadata = _parse_metadata(_fields(root, _METADATA), _Budget(len(raw), label))
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
    begin = len(raw) - len(_TAIL) - _DIGITS
    return raw.endswith(_TAIL) and raw[begin : -len(_TAIL)] == _digest(memoryview(raw)[:begin])


def _digest(raw: bytes | memoryview) -> bytes:
    """Return the xxh3-128 of bytes as hex digits."""
    from xxhash import xxh3_128_hexdigest

    return str(xxh3_128_hexdigest(raw)).encode("ascii")


def _parse_metadata(fields: Mapping[str, Any], budget: _Budget) -> Metadata:
    """Build the metadata from the fields of torch's class.

    This and the functions below raise BadCheckpoint for contradictions. For a field that is missing
    or of another type, they raise what Python raises.
    """
    paths = fields.get("planner_data") or {}
    locations = _parse_locations(fields["storage_data"], budget)
    tensors, others = [], []
    for key, entry in fields["state_dict_metadata"].items():
        path = _parse_path(key, paths.get(key, (key,)), budget)
        if entry.name == _BYTES:
            others.append(StoredBytes(key, path, *_locate(locations, key, None)))
        else:
            fields_of = _fields(entry, _TENSOR)
            tensors.append(_parse_tensor(key, path, fields_of, locations, budget))
    own = fields.get("streamconv")
    has_digest = any(key == _DIGEST_FIELD for key in fields)
    return Metadata(
        tuple(tensors), tuple(others), own if isinstance(own, str) else None, has_digest
    )


def _fields(value: Any, name: str) -> Mapping[str, Any]:
    """Return the fields of an object of the class `name`."""
    if value.name != name or not isinstance(value.state, dict):
        raise TypeError
    fields: Mapping[str, Any] = value.state
    return fields


def _parse_path(key: Any, path: Any, budget: _Budget) -> tuple[str, ...]:
    """Return the path of a key in the state dict, as text.

    Only text and numbers are converted. The text of a nested tuple may be longer than memory: each
    level of a tuple that contains the next one twice doubles it.
    """
    if not isinstance(key, str) or not isinstance(path, tuple | list):
        raise TypeError
    budget.spend(len(path))
    for part in path:
        if not isinstance(part, str | int) or (isinstance(part, int) and abs(part) >= MAX_SIZE):
            raise TypeError
    return tuple(map(str, path))


def _parse_locations(storage_data: Any, budget: _Budget) -> _Locations:
    """Return the location of every chunk and of all other bytes."""
    locations = {}
    for index, info in storage_data.items():
        chunk, location = _fields(index, _INDEX), _fields(info, _STORAGE_INFO)
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
        raise BadCheckpoint(f"cannot read {quoted(key)}: no file is said to hold it")
    raise BadCheckpoint(
        f"cannot read tensor {quoted(key)}: no file is said to hold its chunk at {list(offsets)}"
    )


def _parse_tensor(
    key: str,
    path: tuple[str, ...],
    fields: Mapping[str, Any],
    locations: _Locations,
    budget: _Budget,
) -> StoredTensor:
    """Build a tensor from its fields. Chunks without elements are left out."""
    properties = fields["properties"]
    if properties.name not in (_PROPERTIES, f"{_OLD}TensorProperties"):
        raise TypeError
    dtype = properties.state[0]
    if not isinstance(dtype, Global):
        raise TypeError
    shape = budget.sizes_in(fields["size"])
    chunks = []
    for chunk in fields["chunks"]:
        box = _fields(chunk, _CHUNK)
        budget.spend(CHUNK_NODES)
        offsets, extent = budget.sizes_in(box["offsets"]), budget.sizes_in(box["sizes"])
        if math.prod(extent) or not math.prod(shape):
            chunks.append(Chunk(offsets, extent, *_locate(locations, key, offsets)))
    chunks.sort(key=lambda chunk: chunk.offsets)
    return StoredTensor(key, path, _DTYPES.get(dtype.name, dtype.name), shape, tuple(chunks))


# --- written -----------------------------------------------------------------------------------


def build_metadata(
    tensors: Iterable[StoredTensor], others: Iterable[StoredBytes], own: str
) -> bytes:
    """Build the `.metadata` that describes these tensors and other bytes, in this order.

    `own` is what this package records.
    """
    tensors, others = list(tensors), list(others)
    everything: list[StoredTensor | StoredBytes] = [*tensors, *others]
    fields = {
        "state_dict_metadata": Pairs((each.key, _described(each)) for each in everything),
        "planner_data": Pairs((each.key, each.path) for each in everything),
        "storage_data": Pairs(_storage_data(tensors, others)),
        "storage_meta": None,
        "version": VERSION,
        "streamconv": own,
    }
    raw = write_pickle(Object(_METADATA, (), fields))
    field = _DIGEST_FIELD.encode()
    # two texts that nothing refers to: the field's name, and the digits that are to follow
    opening = struct.pack(f"<cI{len(field)}scI", b"X", len(field), field, b"X", _DIGITS)
    before = raw.removesuffix(_TAIL) + opening
    return b"".join([before, _digest(before), _TAIL])


_STRIDED = Object(_LAYOUT, ("torch.strided",))
_CONTIGUOUS = Object(_ENCODING, (0,))


def _described(tensor: StoredTensor | StoredBytes) -> Object:
    """Build the value of `state_dict_metadata` for a tensor or other bytes."""
    if isinstance(tensor, StoredBytes):
        return Object(_BYTES, ())
    dtype = Global(TORCH_DTYPES[tensor.dtype][0])
    chunks = [
        Object(_CHUNK, (), {"offsets": _torch_size(c.offsets), "sizes": _torch_size(c.sizes)})
        for c in tensor.chunks
    ]
    properties = Object(_PROPERTIES, (), (dtype, _STRIDED, False, _CONTIGUOUS, False))
    size = _torch_size(tensor.shape)
    return Object(_TENSOR, (), {"properties": properties, "size": size, "chunks": chunks})


def _storage_data(
    tensors: Iterable[StoredTensor], others: Iterable[StoredBytes]
) -> Iterator[tuple[Object, Object]]:
    """Yield the index and the location of every chunk and of all other bytes."""
    for tensor in tensors:
        for number, chunk in enumerate(tensor.chunks):
            index = {"fqn": tensor.key, "index": number, "offset": _torch_size(chunk.offsets)}
            yield Object(_INDEX, (), index), _storage_info(chunk.file, chunk.offset, chunk.nbytes)
    for other in others:
        index = {"fqn": other.key, "index": None}
        yield Object(_INDEX, (), index), _storage_info(other.file, other.offset, other.nbytes)


def _storage_info(file: str, offset: int, nbytes: int) -> Object:
    fields = {"relative_path": file, "offset": offset, "length": nbytes}
    return Object(_STORAGE_INFO, (), fields)


@functools.lru_cache(maxsize=1024)
def _torch_size(values: tuple[int, ...]) -> Object:
    """Build a `torch.Size`. Cached: a checkpoint has few shapes and many tensors of each."""
    return Object(_SIZE, (values,))

"""Writes the `.metadata` of a torch.distributed.checkpoint folder."""

import functools
import struct
from collections.abc import Iterable, Iterator

from streamconv.formats.dcp_metadata import (
    BYTES,
    CHUNK,
    DIGEST_FIELD,
    DIGITS,
    ENCODING,
    INDEX,
    LAYOUT,
    METADATA,
    PROPERTIES,
    SIZE,
    STORAGE_INFO,
    TAIL,
    TENSOR,
    VERSION,
    digest_of,
)
from streamconv.formats.dcp_tensors import StoredBytes, StoredTensor
from streamconv.formats.pickle_types import Global, Object
from streamconv.formats.pickle_writer import Pairs, pickle_buffer
from streamconv.formats.torch_archive import TORCH_DTYPES


def build_metadata(
    tensors: Iterable[StoredTensor], others: Iterable[StoredBytes], own: str
) -> bytes:
    """Build the `.metadata` that describes these tensors and other bytes, in this order.

    Args:
        tensors: The tensors; iterated over several times, so that they are not held.
        others: The other bytes; likewise.
        own: What this package records.
    """

    def everything() -> Iterator[StoredTensor | StoredBytes]:
        yield from tensors
        yield from others

    fields = {
        "state_dict_metadata": Pairs((each.key, _described(each)) for each in everything()),
        "planner_data": Pairs((each.key, each.path) for each in everything()),
        "storage_data": Pairs(_storage_data(tensors, others)),
        "storage_meta": None,
        "version": VERSION,
        "streamconv": own,
    }
    raw = pickle_buffer(Object(METADATA, (), fields))
    field = DIGEST_FIELD.encode()
    # two texts that nothing refers to: the name of the field, and the digits, which follow below
    opening = struct.pack(f"<cI{len(field)}scI", b"X", len(field), field, b"X", DIGITS)
    raw[-len(TAIL) :] = opening
    raw += digest_of(memoryview(raw)) + TAIL
    return bytes(raw)


_STRIDED = Object(LAYOUT, ("torch.strided",))
_CONTIGUOUS = Object(ENCODING, (0,))


def _described(tensor: StoredTensor | StoredBytes) -> Object:
    """Build the value of `state_dict_metadata` for a tensor or other bytes."""
    if isinstance(tensor, StoredBytes):
        return Object(BYTES, ())
    dtype = Global(TORCH_DTYPES[tensor.dtype][0])
    chunks = [
        Object(CHUNK, (), {"offsets": _torch_size(c.offsets), "sizes": _torch_size(c.sizes)})
        for c in tensor.chunks
    ]
    properties = Object(PROPERTIES, (), (dtype, _STRIDED, False, _CONTIGUOUS, False))
    size = _torch_size(tensor.shape)
    return Object(TENSOR, (), {"properties": properties, "size": size, "chunks": chunks})


def _storage_data(
    tensors: Iterable[StoredTensor], others: Iterable[StoredBytes]
) -> Iterator[tuple[Object, Object]]:
    """Yield the index and the location of every chunk and of all other bytes."""
    for tensor in tensors:
        for number, chunk in enumerate(tensor.chunks):
            index = {"fqn": tensor.key, "index": number, "offset": _torch_size(chunk.offsets)}
            yield Object(INDEX, (), index), _storage_info(chunk.file, chunk.offset, chunk.nbytes)
    for other in others:
        index = {"fqn": other.key, "index": None}
        yield Object(INDEX, (), index), _storage_info(other.file, other.offset, other.nbytes)


def _storage_info(file: str, offset: int, nbytes: int) -> Object:
    fields = {"relative_path": file, "offset": offset, "length": nbytes}
    return Object(STORAGE_INFO, (), fields)


@functools.lru_cache(maxsize=1024)
def _torch_size(values: tuple[int, ...]) -> Object:
    """Build a `torch.Size`. Cached: a checkpoint has few shapes and many tensors of each."""
    return Object(SIZE, (values,))

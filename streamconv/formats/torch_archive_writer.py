"""Builds the archive of a tensor up to its bytes and after them, and that of a plain value."""

import functools
import math
from typing import Any

from streamconv.formats.pickle_types import PERSISTENT, Global, Object
from streamconv.formats.pickle_writer import write_pickle
from streamconv.formats.torch_archive import (
    ITEM_BYTES,
    NO_HOOKS,
    REBUILD,
    REBUILD_TYPED,
    TORCH_DTYPES,
    UNTYPED,
    strides_of,
)
from streamconv.formats.zip_archive import around_payload


@functools.lru_cache(maxsize=256)
def around_tensor(dtype: str, shape: tuple[int, ...]) -> tuple[bytes, bytes]:
    """Build the bytes of an archive before and after those of a contiguous tensor."""
    torch_dtype, storage = TORCH_DTYPES[dtype]
    count = math.prod(shape)
    nbytes = count * ITEM_BYTES[dtype]
    key = ("storage", Global(storage or UNTYPED), "0", "cpu", count if storage else nbytes)
    args = (Object(PERSISTENT, key), 0, shape, strides_of(shape), False, Object(NO_HOOKS, ()))
    if storage:
        tensor = Object(REBUILD, args)
    else:
        tensor = Object(REBUILD_TYPED, (*args, Global(torch_dtype)))
    return around_payload(_files(write_pickle(tensor)), nbytes, "data/0")


def archive_of_value(value: Any) -> bytes:
    """Build the archive of a value without tensors, as `torch.save` stores it."""
    return b"".join(around_payload(_files(write_pickle(value)), None, ""))


def _files(pickled: bytes) -> dict[str, bytes]:
    """Return the files of an archive that come before the tensor's bytes."""
    return {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n"}

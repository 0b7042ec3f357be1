"""The zip archive that `torch.save` makes of one tensor: its files, and the names in its pickle.

    archive/data.pkl     a pickle: dtype, shape and strides of the tensor, and its storage
    archive/byteorder    "little"
    archive/version      "3"
    archive/data/0       the tensor's bytes, stored as they are, at a multiple of 64
    directory            offset and size of each of these files

The bytes before and after those of the tensor depend on its dtype and shape alone.
Source: `torch/serialization.py`.
"""

import itertools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from streamconv.formats.safetensors import DTYPE_BITS, MAX_DIMS, MAX_SIZE

REBUILD, REBUILD_TYPED = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"
UNTYPED = "torch.storage.UntypedStorage"
NO_HOOKS = "collections.OrderedDict"

TORCH_DTYPES: Mapping[str, tuple[str, str | None]] = MappingProxyType(
    {
        "BOOL": ("torch.bool", "torch.BoolStorage"),
        "U8": ("torch.uint8", "torch.ByteStorage"),
        "I8": ("torch.int8", "torch.CharStorage"),
        "I16": ("torch.int16", "torch.ShortStorage"),
        "I32": ("torch.int32", "torch.IntStorage"),
        "I64": ("torch.int64", "torch.LongStorage"),
        "F16": ("torch.float16", "torch.HalfStorage"),
        "BF16": ("torch.bfloat16", "torch.BFloat16Storage"),
        "F32": ("torch.float32", "torch.FloatStorage"),
        "F64": ("torch.float64", "torch.DoubleStorage"),
        "C64": ("torch.complex64", "torch.ComplexFloatStorage"),
        "U16": ("torch.uint16", None),
        "U32": ("torch.uint32", None),
        "U64": ("torch.uint64", None),
        "F8_E5M2": ("torch.float8_e5m2", None),
        "F8_E4M3": ("torch.float8_e4m3fn", None),
        "F8_E8M0": ("torch.float8_e8m0fnu", None),
        "F8_E4M3FNUZ": ("torch.float8_e4m3fnuz", None),
        "F8_E5M2FNUZ": ("torch.float8_e5m2fnuz", None),
    }
)
"""Each dtype of the safetensors format that torch has: its name in torch, and the class of storage
that a pickle names instead of it. Newer dtypes have no such class; a pickle names them directly."""

ITEM_BYTES = {dtype: DTYPE_BITS[dtype] // 8 for dtype in TORCH_DTYPES}
"""Bytes of an element of each of these dtypes."""


def strides_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a contiguous tensor, in elements.

    As in torch, a dimension of size 0 counts as 1: `(2, 0, 3)` has the strides `(3, 3, 1)`.
    """
    widths = itertools.accumulate((max(n, 1) for n in reversed(shape[1:])), int.__mul__, initial=1)
    return tuple(widths)[::-1] if shape else ()


def sizes(values: Any) -> tuple[int, ...]:
    """Return `values` if they are sizes or offsets of a tensor. Raises TypeError if not."""
    if not isinstance(values, tuple) or len(values) > MAX_DIMS:
        raise TypeError
    if any(type(value) is not int or not 0 <= value < MAX_SIZE for value in values):
        raise TypeError
    return values

"""The tensors that a weight becomes when it is quantized: their names, dtypes and shapes."""

import functools
import math

from streamconv.catalog.companions import companion_suffixes
from streamconv.catalog.encodings import EncodingRow, StoredPart
from streamconv.checkpoint.encoding import Encoding
from streamconv.checkpoint.types import Cast, TensorInfo
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.quantization.number_format import Axis, number_formats
from streamconv.quantization.stems import WEIGHT

_ENDING = f".{WEIGHT}"
_ENCODED = frozenset({"BF16", "F16", "F32"})
"""Dtypes that are encoded as they are. Others are cast to F32 first."""


def encoded_parts(info: TensorInfo, row: EncodingRow, scale: str | None) -> tuple[TensorInfo, ...]:
    """Return the tensors that a weight becomes, codes first.

    Args:
        info: A matrix `[o, i]` of a floating dtype, or a view of one.
        row: How it is quantized.
        scale: The value of `--scale`, None for the default.
    """
    return tuple(_part(info, row, scale, part) for part in row.parts)


def _part(info: TensorInfo, row: EncodingRow, scale: str | None, part: StoredPart) -> TensorInfo:
    encoding = _encoding(row, scale, (info.shape[0], info.shape[1]), info.dtype, part.role)
    dtype = part.dtype or encoding.dtype
    shape = _shape(row, part, encoding)
    cast = info.cast
    if cast is not None and cast.view is not None:
        cast = Cast(cast.stored, view=cast.view, encoding=encoding)
    else:
        cast = Cast(info, encoding=encoding)
    nbytes = math.prod(shape) * DTYPE_BITS[dtype] // 8
    return TensorInfo(
        name_of_part(info.name, part.word), dtype, shape, info.file, info.offset, nbytes, cast
    )


def name_of_part(weight: str, word: str) -> str:
    """Return the name of what belongs to a weight: `a.weight_scale`, or `down_proj_scale`."""
    if word == WEIGHT:
        return weight
    if weight.endswith(_ENDING):
        return f"{weight.removesuffix(WEIGHT)}{word}"
    return weight + companion_suffixes()[word]


@functools.cache
def _encoding(
    row: EncodingRow, scale: str | None, shape: tuple[int, int], dtype: str, role: str
) -> Encoding:
    stored = dtype if dtype in _ENCODED else "F32"
    block = (row.block[0] or shape[0], row.block[1] or shape[1])
    return Encoding(row.name, scale, shape, block, stored, row.arithmetic or stored, role)


def _shape(row: EncodingRow, part: StoredPart, encoding: Encoding) -> tuple[int, ...]:
    """Return the shape of a part. Of the axes that the format allows for it, the first count."""
    if part.role == "shape":
        return (2,)
    known = number_formats()[row.format]
    axes = (known.codes if part.role == "codes" else known.part(part.role) or known.codes).axes[0]
    return tuple(_length(axis, encoding) for axis in axes)


def _length(axis: Axis, encoding: Encoding) -> int:
    if not axis.name:
        return 1
    place = "oi".index(axis.name)
    per = axis.per if isinstance(axis.per, int) else encoding.block[place]
    return math.ceil(math.ceil(encoding.shape[place] / per) / axis.packed)

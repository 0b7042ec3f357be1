"""Dequantized weights, computed a second time: from the position of each number in its tensor.

How weights are decoded is deliberately written twice: here, to compare them, and in
`quantization/decode.py`, to write them. Neither uses the other, so a mistake in one of them shows
as a difference instead of being repeated. Here the numbers of a matrix are looked up one by one,
by their row and column, multiplied in float64 and rounded at the end.
"""

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streamconv.checkpoint.decoding import Decoding, Plane
from streamconv.checkpoint.types import Cast, TensorInfo
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.sources.base import Read, Source
from streamconv.sources.wrappers.base import SourceWrapper

BAND = 2**16
"""Elements that are computed at once: a few arrays of float64, which stay in the cache."""

Array = npt.NDArray[Any]

_FLOATS = {"F8_E4M3": (4, 3, 7), "F8_E5M2": (5, 2, 15)}
_FLOATS |= {"F8_E4M3FNUZ": (4, 3, 8), "F8_E5M2FNUZ": (5, 2, 16)}
"""Bits of exponent and mantissa, and the bias."""
_OUT = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}


class DequantizedSource(SourceWrapper):
    """A source that computes the dequantized tensors that it is asked for."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._kept = threading.local()

    def read(self, reads: Sequence[Read]) -> None:
        self._source.read([r for r in reads if r.info.cast is None or not r.info.cast.decoding])
        for read in reads:
            if read.info.cast is not None and read.info.cast.decoding is not None:
                self._compute(read, read.info.cast, read.info.cast.decoding)

    def _compute(self, read: Read, cast: Cast, decoding: Decoding) -> None:
        """Fill the buffer of a read, some rows at a time."""
        out: Array = np.frombuffer(read.buffer, _OUT[read.info.dtype])
        rows, columns = decoding.shape
        first = read.start // out.itemsize
        step = max(BAND // columns, 1)
        position = first
        while position < first + len(out):
            matrix, within = divmod(position, rows * columns)
            row, column = divmod(within, columns)
            last = min(row + step, rows, -(-(within + first + len(out) - position) // columns))
            values = self._rows(read.info, cast, decoding, matrix, range(row, last))
            taken = values.reshape(-1)[column : column + first + len(out) - position]
            begin = position - first
            out[begin : begin + len(taken)] = rounded_to(taken, read.info.dtype)
            position += len(taken)

    def _rows(
        self, info: TensorInfo, cast: Cast, decoding: Decoding, matrix: int, rows: range
    ) -> Array:
        """Return rows of a matrix in float32."""
        y = np.arange(rows.start, rows.stop)
        x = np.arange(decoding.shape[1])
        parts = {
            role: (part, plane)
            for part, (role, plane) in zip(cast.companions, decoding.planes, strict=True)
        }
        codes = self._numbers(cast.stored, decoding.codes, matrix, y, x)
        groups: Array | None = None
        if "index" in parts:
            part, plane = parts["index"]
            own = self._numbers(part, plane, matrix, np.arange(plane.stored[0]), x)
            groups = own[y // plane.block[0]].astype(np.int64)
        scale: Array = self._grid(*parts["scale"], matrix, y, x, groups).astype(np.float32)
        if "second" in parts:
            second = self._grid(*parts["second"], matrix, y, x, None).astype(np.float32)
            scale = scale * second if decoding.second == "multiplies" else scale / second
        if "zero" in parts:
            codes = codes - self._grid(*parts["zero"], matrix, y, x, groups)
        with np.errstate(over="ignore", invalid="ignore"):
            return (codes * scale.astype(np.float64)).astype(np.float32)

    def _grid(
        self,
        info: TensorInfo,
        plane: Plane,
        matrix: int,
        y: Array,
        x: Array,
        groups: Array | None,
    ) -> Array:
        """Return the number of each element's block."""
        down = y // plane.block[0]
        if groups is None:
            return self._numbers(info, plane, matrix, down, x // plane.block[1])
        every = self._numbers(info, plane, matrix, down, np.arange(plane.shape[1]))
        taken: Array = np.take_along_axis(every, groups, axis=1)
        return taken

    def _numbers(self, info: TensorInfo, plane: Plane, matrix: int, y: Array, x: Array) -> Array:
        """Return the numbers of a grid in the rows `y` and the columns `x`, in float64."""
        each = DTYPE_BITS[info.dtype] // plane.bits if plane.packed else 1
        place_y, place_x = np.zeros_like(y), np.zeros_like(x)
        if plane.packed == "rows":
            y, place_y = np.divmod(y, each)
        elif plane.packed == "columns":
            x, place_x = np.divmod(x, each)
        order = np.argsort(plane.order) if plane.order else np.arange(each)
        shift = order[place_y][:, None] * plane.bits + order[place_x][None, :] * plane.bits
        if plane.is_transposed:
            words = self._words(info, plane, matrix, x)[:, y].T
        else:
            words = self._words(info, plane, matrix, y)[:, x]
        if plane.values == "float":
            return float_of(words, info.dtype)
        if not plane.packed:
            return words.astype(np.float64) - plane.offset
        codes = words.astype(np.int64) >> shift & (1 << plane.bits) - 1
        return _meaning(codes, plane)

    def _words(self, info: TensorInfo, plane: Plane, matrix: int, rows: Array) -> Array:
        """Return rows of a tensor's elements as they are stored, for one matrix."""
        first, last = int(rows.min()), int(rows.max())
        key = info.name, matrix, first, last
        kept = self._kept.__dict__.setdefault("rows", {})
        if key not in kept:
            for old in [old for old in kept if old[0] == info.name]:
                del kept[old]
            if len(kept) > 8:
                kept.clear()
            raw = bytearray((last - first + 1) * plane.row_bytes)
            start = (matrix if plane.matrices > 1 else 0) * plane.nbytes + first * plane.row_bytes
            self._source.read([Read(info, start, memoryview(raw))])
            kept[key] = np.frombuffer(raw, stored_as(info.dtype)).reshape(-1, plane.stored[1])
        rows_there: Array = kept[key][rows - first]
        return rows_there


def stored_as(dtype: str) -> Any:
    """Return the numpy dtype that holds the elements of a tensor."""
    known = {"F32": np.float32, "F16": np.float16, "I8": np.int8, "I32": np.int32, "I64": np.int64}
    return known.get(dtype, np.uint16 if dtype == "BF16" else np.uint8)


def float_of(words: Array, dtype: str) -> Array:
    """Return stored floats as float64."""
    if dtype == "BF16":
        return (words.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if dtype in ("F8_E8M0", "U8"):
        return np.where(words == 255, np.nan, np.exp2(words.astype(np.float64) - 127))
    if dtype in _FLOATS:
        return floats8(dtype)[words]
    return words.astype(np.float64)


def floats8(dtype: str) -> Array:
    """Return the value of each byte as a float of 8 bits."""
    exponents, mantissas, bias = _FLOATS[dtype]
    values = np.empty(256)
    for byte in range(256):
        sign = -1.0 if byte & 128 else 1.0
        exponent, mantissa = byte >> mantissas & (1 << exponents) - 1, byte & (1 << mantissas) - 1
        fraction = mantissa / (1 << mantissas) + (1 if exponent else 0)
        values[byte] = sign * fraction * 2.0 ** (max(exponent, 1) - bias)
    if dtype.endswith("FNUZ"):
        values[128] = np.nan
    elif dtype == "F8_E4M3":
        values[127], values[255] = np.nan, math.copysign(np.nan, -1)
    else:
        values[124], values[252] = np.inf, -np.inf
        values[125:128], values[253:] = np.nan, math.copysign(np.nan, -1)
    return values


def _meaning(codes: Array, plane: Plane) -> Array:
    """Return the number that each code of some bits means."""
    if plane.values == "int":
        numbers = codes - plane.offset
        return (numbers % (1 << plane.bits) if plane.offset < 0 else numbers).astype(np.float64)
    magnitude = codes & 7
    value = np.where(magnitude < 2, magnitude / 2, np.exp2(magnitude // 2 - 1.0))
    value = np.where((magnitude > 2) & (magnitude & 1 == 1), value * 1.5, value)
    signed = np.where(codes & 8 == 8, -value, value)
    return signed + 0.0 if plane.values == "e2m1+0" else signed


def rounded_to(values: Array, dtype: str) -> Array:
    """Return float32 rounded to a dtype, to nearest, ties to even."""
    if dtype == "F32":
        return values
    if dtype == "F16":
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return values.astype(np.float16)
    bits = np.ascontiguousarray(values).view(np.uint32)
    upper, rest = bits >> 16, bits & 0xFFFF
    up = (rest > 0x8000) | ((rest == 0x8000) & (upper & 1 == 1))
    return np.where(np.isnan(values), upper | 0x40, upper + up).astype(np.uint16)

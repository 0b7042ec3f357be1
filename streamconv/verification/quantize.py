"""Quantized weights, computed a second time: from the definition of each scale and each code.

How weights are quantized is deliberately written twice: here, to compare them, and in
`quantization/encode.py`, to write them. Neither uses the other. Here numbers are float64, rounded
where the format rounds, and a code is searched among the numbers that the codes mean.
"""

import functools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streamconv.catalog.encodings import encoding_row
from streamconv.checkpoint.encoding import Encoding
from streamconv.checkpoint.types import Cast
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.sources.base import ByteRange, Read, Source
from streamconv.sources.wrappers.base import SourceWrapper
from streamconv.system.buffers import new_buffer
from streamconv.units import HUGE_PAGE_BYTES
from streamconv.verification.dequantize import BAND, float_of, floats8, rounded_to, stored_as

Array = npt.NDArray[Any]

_SMALLEST = {"BF16": 2.0**-126, "F16": 2.0**-14, "F32": 2.0**-126}
"""The smallest normal number."""
_EPSILON = {"BF16": 2.0**-7, "F16": 2.0**-10, "F32": 2.0**-23}


class QuantizedAgain(SourceWrapper):
    """A source that computes the quantized tensors that it is asked for."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._kept = threading.local()

    def read(self, reads: Sequence[Read]) -> None:
        plain = []
        for read in reads:
            cast = read.info.cast
            if cast is None or (cast.encoding is None and cast.view is None):
                plain.append(read)
            elif cast.encoding is None:
                self._fill(read, cast, read.info.shape)
            elif cast.encoding.role == "shape":
                numbers = b"".join(n.to_bytes(8, "little") for n in cast.encoding.shape)
                read.buffer[:] = numbers[read.start : read.start + len(read.buffer)]
            else:
                self._compute(read, cast, cast.encoding)
        self._source.read(plain)

    def expect(self, ranges: Sequence[ByteRange]) -> None:
        """Pass on only what is read as it is stored. Quantized weights are read in whole bands."""
        casts = [(each, each.info.cast) for each in ranges]
        super().expect([r for r, c in casts if c is None or not (c.encoding or c.view)])

    def _fill(self, read: Read, cast: Cast, shape: tuple[int, ...]) -> None:
        """Fill the buffer of a read with elements of a part of a tensor."""
        width = DTYPE_BITS[read.info.dtype] // 8
        ends = _places(cast, [np.array([0, n - 1]) for n in shape])
        is_in_order = cast.view is None or cast.view.is_contiguous(shape)
        for position in range(0, len(read.buffer), BAND * width):
            out = read.buffer[position : position + BAND * width]
            begin = (read.start + position) // width
            numbers = np.arange(begin, begin + len(out) // width)
            at = _places(cast, list(np.unravel_index(numbers, shape)))
            # what lies between each other in the file is all read at once, and kept
            first, last = (int(n) for n in (at if is_in_order else ends)[[0, -1]])
            out[:] = self._stored(cast, first, last)[at - first].tobytes()

    def _stored(self, cast: Cast, first: int, last: int) -> Array:
        """Return the elements of a stored tensor from one to another, as words."""
        key = cast.stored.name, first, last
        if getattr(self._kept, "stored_of", None) != key:
            self._kept.stored_of = self._kept.stored = None
            width = DTYPE_BITS[cast.stored.dtype] // 8
            nbytes = (last - first + 1) * width
            # the heap of Python would keep parts of large ones, next to those of the next weight
            raw = new_buffer(nbytes) if nbytes >= HUGE_PAGE_BYTES else memoryview(bytearray(nbytes))
            self._source.read([Read(cast.stored, first * width, raw)])
            self._kept.stored = np.frombuffer(raw, stored_as(cast.stored.dtype))
            self._kept.stored_of = key
        words: Array = self._kept.stored
        return words

    def _compute(self, read: Read, cast: Cast, encoding: Encoding) -> None:
        """Fill the buffer of a read from whole blocks of rows, some at a time."""
        height = encoding.block[0] if encoding.role == "scale" else 1
        row_bytes = read.info.nbytes // -(-encoding.shape[0] // height)
        position, end = read.start, read.start + len(read.buffer)
        while position < end:
            row = position // row_bytes * height
            band, content = self._band(cast, encoding, row)
            within = position - band // height * row_bytes
            taken = min(end - position, len(content) - within)
            begin = position - read.start
            read.buffer[begin : begin + taken] = content[within : within + taken]
            position += taken

    def _band(self, cast: Cast, encoding: Encoding, row: int) -> tuple[int, memoryview]:
        """Return the first row of the band that has a row, and the bytes made of the band."""
        rows, columns = encoding.shape
        step = max(BAND // (columns * encoding.block[0]), 1) * encoding.block[0]
        first = row - row % step
        key = cast.stored.name, cast.view, encoding, first
        if getattr(self._kept, "key", None) != key:
            self._kept.key = self._kept.content = None
            y = np.arange(first, min(first + step, rows))
            made = [
                _encoded(self._values(cast, encoding, y, x), encoding)
                for x in _columns(encoding, len(y))
            ]
            self._kept.content = np.concatenate(made, axis=1).reshape(-1).data.cast("B")
            self._kept.key = key
        content: memoryview = self._kept.content
        return first, content

    def _values(self, cast: Cast, encoding: Encoding, y: Array, x: Array) -> Array:
        """Return the numbers in some rows and columns of a weight, in float64."""
        down, across = _strides(cast)
        # rows whose elements alternate in the file are all read at once, and kept
        outer = np.arange(encoding.shape[0]) if down < across else y
        ends = _places(cast, [outer[[0, -1]], np.array([0, encoding.shape[1] - 1])])
        begin = int(ends[0])
        at = _places(cast, [y[:, None], x]) - begin
        values = float_of(self._stored(cast, begin, int(ends[1]))[at], cast.stored.dtype)
        if cast.stored.dtype not in _EPSILON:
            values = values.astype(np.float32).astype(np.float64)
        return values


def _strides(cast: Cast) -> tuple[int, ...]:
    """Return how far apart the positions on each axis of a weight are, in stored elements."""
    return cast.view.strides if cast.view else (cast.stored.shape[-1], 1)


def _places(cast: Cast, positions: list[Any]) -> Array:
    """Return which stored elements are at the positions of a weight, given on each axis."""
    start = np.array(cast.view.start if cast.view else 0)
    return sum((p * n for p, n in zip(positions, _strides(cast), strict=True)), start)


def _columns(encoding: Encoding, rows: int) -> Iterator[Array]:
    """Yield the columns that are computed at once for some rows: whole blocks."""
    columns, width = encoding.shape[1], encoding.block[1]
    step = max(BAND // (rows * width), 1) * width
    for left in range(0, columns, step):
        yield np.arange(left, min(left + step, columns))


def _encoded(values: Array, encoding: Encoding) -> Array:
    """Return the stored bytes of codes or scales, `[rows, bytes]`."""
    scales = _scales(values, encoding)
    if encoding.role == "codes":
        return _codes(values, scales, encoding)
    return _stored_scales(scales, encoding)


def _scales(values: Array, encoding: Encoding) -> Array:
    """Return the scale of each block, in float64."""
    row = encoding_row(encoding.name, encoding.scales)
    (rows, columns), (height, width) = values.shape, encoding.block
    largest = np.maximum.reduceat(np.abs(values), np.arange(0, rows, height), axis=0)
    largest = np.maximum.reduceat(largest, np.arange(0, columns, width), axis=1)
    if row.powers == "near":
        mantissa, exponent = np.frexp(largest)
        power = np.where(mantissa >= 0.875, exponent, exponent - 1.0) - 2
        is_tiny = largest < _SMALLEST[encoding.dtype]
        tiny = 0 if encoding.dtype == "F16" else -127
        return np.exp2(np.where(is_tiny, tiny, np.clip(power, -127, 127)))
    scales = _as_dtype(largest / row.most, encoding.dtype)
    scales[scales == 0] = row.zero or _EPSILON[encoding.dtype]
    if row.powers == "above":
        mantissa, exponent = np.frexp(scales)
        scales = np.exp2(np.maximum(np.where(mantissa == 0.5, exponent - 1, exponent), -126))
    return scales


def _stored_scales(scales: Array, encoding: Encoding) -> Array:
    row = encoding_row(encoding.name, encoding.scales)
    (dtype,) = [part.dtype or encoding.dtype for part in row.parts if part.role == "scale"]
    if row.powers:
        powers: Array = (np.log2(scales) + 127).astype(np.uint8)
        return powers
    stored: Array = np.ascontiguousarray(rounded_to(scales.astype(np.float32), dtype))
    return stored.view(np.uint8)


def _codes(values: Array, scales: Array, encoding: Encoding) -> Array:
    """Return the codes of numbers, packed as they are stored."""
    row = encoding_row(encoding.name, encoding.scales)
    y = np.arange(len(values)) // encoding.block[0]
    x = np.arange(values.shape[1]) // encoding.block[1]
    with np.errstate(over="ignore"):
        quotients = _as_dtype(values / scales[y][:, x], encoding.dtype)
    if row.numbers == "int4":
        lower = np.floor(quotients)
        rest = quotients - lower
        code = lower + ((rest > 0.5) | ((rest == 0.5) & (lower % 2 == 1)))
        codes: Array = (np.clip(code, -8, 7) + 8).astype(np.uint8)
    else:
        codes = _nearest(quotients, row.numbers, values)
    if row.numbers == "e4m3":
        return codes
    packed: Array = (codes[:, 0::2] + 16 * codes[:, 1::2]).astype(np.uint8)
    return packed


def _nearest(quotients: Array, numbers: str, values: Array) -> Array:
    """Return the code of the nearest number; of two, the one whose code is even.

    In four bits, a zero has a sign if the number before the division was a zero of that sign.
    """
    meant = _meant(numbers)
    halfway = (meant[1:] + meant[:-1]) / 2
    magnitude = np.abs(quotients)
    below = np.searchsorted(halfway, magnitude, side="left")
    is_tie = (below < len(halfway)) & (halfway[np.minimum(below, len(halfway) - 1)] == magnitude)
    code = below + (is_tie & (below % 2 == 1))
    is_negative = np.signbit(quotients)
    if numbers == "e2m1":
        is_negative = (quotients < 0) | ((values == 0) & np.signbit(values))
    signed: Array = (code + (128 if numbers == "e4m3" else 8) * is_negative).astype(np.uint8)
    return signed


@functools.cache
def _meant(numbers: str) -> Array:
    """Return the numbers that positive codes mean, without NaN."""
    if numbers == "e4m3":
        return floats8("F8_E4M3")[:127]
    return np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def _as_dtype(values: Array, dtype: str) -> Array:
    """Return float64 rounded to float32, and then to a dtype, as float64."""
    with np.errstate(over="ignore", under="ignore"):
        single = values.astype(np.float32)
    return float_of(rounded_to(single, dtype), dtype)

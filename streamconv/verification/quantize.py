"""Quantized weights, computed a second time, to compare them: which numbers are read for each.

A weight is read in bands of rows, as few requests to a server are faster than many. The numbers of
a band are computed tile by tile, as they take much more memory than what they are made from.
"""

import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streamconv.checkpoint.encoding import AGAIN_ELEMENTS, AGAIN_TILE, Encoding
from streamconv.checkpoint.types import Cast
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.sources.base import ByteRange, Read, Source
from streamconv.sources.wrappers.base import SourceWrapper
from streamconv.system.buffers import new_buffer
from streamconv.units import HUGE_PAGE_BYTES
from streamconv.verification.dequantize import stored_as
from streamconv.verification.encode import encoded, numbers_of

Array = npt.NDArray[Any]


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
        end = (read.start + len(read.buffer)) // width
        is_in_order = cast.view is None or cast.view.is_contiguous(shape)
        # what lies between each other in the file is all read at once, and kept
        step, ends = AGAIN_ELEMENTS, np.array([0, math.prod(shape) - 1])
        for begin in range(read.start // width, end, step):
            if is_in_order:
                ends = np.array([begin, min(begin + step, end) - 1])
            first, last = (int(n) for n in _places(cast, np.unravel_index(ends, shape)))
            stored = self._stored(cast, first, last)
            for number in range(begin, min(begin + step, end), AGAIN_TILE):
                numbers = np.arange(number, min(number + AGAIN_TILE, begin + step, end))
                at = _places(cast, np.unravel_index(numbers, shape))
                position = number * width - read.start
                out = read.buffer[position : position + len(numbers) * width]
                out[:] = stored[at - first].tobytes()

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
        height = _rows_of_a_line(encoding)
        row_bytes = read.info.nbytes // -(-encoding.shape[0] // height)
        position, end = read.start, read.start + len(read.buffer)
        while position < end:
            row = position // row_bytes * height
            first, content = self._band(cast, encoding, row, row_bytes)
            within = position - first // height * row_bytes
            taken = min(end - position, len(content) - within)
            begin = position - read.start
            read.buffer[begin : begin + taken] = content[within : within + taken]
            position += taken
            del content  # before the next band is computed

    def _band(
        self, cast: Cast, encoding: Encoding, row: int, row_bytes: int
    ) -> tuple[int, memoryview]:
        """Return the first row of the band that has a row, and the bytes made of the band."""
        step = _rows_of(AGAIN_ELEMENTS, encoding)
        first = row - row % step
        key = cast.stored.name, cast.view, encoding, first
        if getattr(self._kept, "key", None) != key:
            self._kept.key = self._kept.content = None
            band = range(first, min(first + step, encoding.shape[0]))
            made = np.empty((-(-len(band) // _rows_of_a_line(encoding)), row_bytes), np.uint8)
            self._fill_band(made, cast, encoding, band)
            self._kept.content = made.reshape(-1).data
            self._kept.key = key
        content: memoryview = self._kept.content
        return first, content

    def _fill_band(self, made: Array, cast: Cast, encoding: Encoding, band: range) -> None:
        """Fill `made`, `[lines, bytes]`, with what is made of some rows, tile by tile."""
        down, across = _strides(cast)
        # rows whose elements alternate in the file are all read at once, and kept
        rows = range(encoding.shape[0]) if down < across else band
        ends = np.array([rows[0], rows[-1]]), np.array([0, encoding.shape[1] - 1])
        begin, end = (int(n) for n in _places(cast, ends))
        stored = self._stored(cast, begin, end)
        line, step = 0, _rows_of(AGAIN_TILE, encoding)
        for row in range(band[0], band[-1] + 1, step):
            y = np.arange(row, min(row + step, band[-1] + 1))
            left = 0
            for x in _columns(encoding, len(y)):
                words = stored[_places(cast, [y[:, None], x]) - begin]
                tile = encoded(numbers_of(words, cast.stored.dtype), encoding)
                made[line : line + len(tile), left : left + tile.shape[1]] = tile
                left += tile.shape[1]
            line += len(tile)


def _rows_of_a_line(encoding: Encoding) -> int:
    """Return how many rows of a weight become a row of the tensor that is made."""
    return encoding.block[0] if encoding.role == "scale" else 1


def _strides(cast: Cast) -> tuple[int, ...]:
    """Return how far apart the positions on each axis of a weight are, in stored elements."""
    return cast.view.strides if cast.view else (cast.stored.shape[-1], 1)


def _places(cast: Cast, positions: Sequence[Any]) -> Array:
    """Return which stored elements are at the positions of a weight, given on each axis."""
    start = np.array(cast.view.start if cast.view else 0)
    return sum((p * n for p, n in zip(positions, _strides(cast), strict=True)), start)


def _rows_of(elements: int, encoding: Encoding) -> int:
    """Return the rows of whole blocks that have at most so many elements; at least one block."""
    height = encoding.block[0]
    return max(elements // (encoding.shape[1] * height), 1) * height


def _columns(encoding: Encoding, rows: int) -> Iterator[Array]:
    """Yield the columns that are computed at once for some rows: whole blocks."""
    columns, width = encoding.shape[1], encoding.block[1]
    step = max(AGAIN_TILE // (rows * width), 1) * width
    for left in range(0, columns, step):
        yield np.arange(left, min(left + step, columns))

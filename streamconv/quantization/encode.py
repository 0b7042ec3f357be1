"""Encode rows of a matrix: scales for its blocks, then codes, in tiles of reused memory.

The largest number of a block settles its scale. Each number is divided by the scale, rounded to
the dtype of the arithmetic, and then to the nearest code, ties to even, or to the largest one. So
the result is that of torch, and of compressed-tensors where that has the format.

A negative zero keeps its sign, so that what was dequantized gives its own codes.

The upper 16 bits of a float32 choose the code from a table. If a lower bit is set, the lowest upper
one is set, too: no number is then taken for one halfway between two codes.

`verification/encode.py` computes the same in another way, and neither uses the other.
"""

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from streamconv.catalog.encodings import encoding_row
from streamconv.checkpoint.encoding import TILE, Encoding
from streamconv.errors import BadCheckpoint, quoted
from streamconv.quantization.block_scales import (
    MANTISSA,
    exponent_of_infinity,
    near_powers,
    powers_above,
    rounded,
    widen,
    widened,
)
from streamconv.quantization.dtype_kernels import STORED, narrow
from streamconv.quantization.workspace import Workspace

Array = npt.NDArray[Any]

_BITS: dict[str, Any] = {"BF16": np.uint16, "F16": np.uint16, "F32": np.uint32}
_EPSILON = {"BF16": 2.0**-7, "F16": 2.0**-10, "F32": 2.0**-23}
"""Distance from 1 to the next larger number."""


class RowEncoder:
    """Encodes rows of matrices that are quantized in one way, in the memory of a workspace."""

    def __init__(self, encoding: Encoding, workspace: Workspace) -> None:
        """Take the encoding of the matrices, and memory that one thread uses."""
        self._encoding = encoding
        self._dtype = encoding.stored
        self._workspace = workspace
        self._row = encoding_row(encoding.name, encoding.scales)
        height, width = encoding.block
        columns = encoding.shape[1]
        self._height = height if height > 1 else max(TILE // columns, 1)
        self._width = min(max(TILE // (self._height * width), 1) * width, columns)

    def scales(self, elements: Array, name: str, first: int = 0) -> Array:
        """Return the scales of some rows as float32, `[blocks of rows, blocks of columns]`.

        Args:
            elements: The bits of whole rows, `[rows, columns]`, from the first of a block on.
            name: Name of the weight, for the error.
            first: Number of the first row.

        Raises:
            BadCheckpoint: An element is NaN or infinite.
        """
        largest = self._largest(elements)
        infinite = (
            (exponent_of_infinity(self._dtype) << MANTISSA[self._dtype]) if largest.size else 0
        )
        if largest.size and largest.max() >= infinite:
            raise self._not_finite(elements, infinite, name, first)
        if self._row.powers == "near":
            return near_powers(largest, self._dtype)
        scales = widened(largest, self._dtype) / np.float32(self._row.most)
        if self._row.powers == "above":
            return powers_above(np.where(scales == 0, np.float32(self._zero()), scales))
        scales = rounded(scales, self._encoding.dtype)
        return np.where(scales == 0, np.float32(self._zero()), scales)

    def codes(self, elements: Array, scales: Array) -> Array:
        """Return the codes of some rows as bytes, `[rows, bytes of a row]`.

        Args:
            elements: The bits of whole rows, as for `scales`.
            scales: What `scales` returned for them.

        Returns:
            Memory that the next call for any weight in the same workspace uses again.
        """
        rows, columns = elements.shape
        height = self._encoding.block[0]
        codes = self._memory("rows of codes", (rows, columns), np.uint8)
        with np.errstate(over="ignore", under="ignore"):
            for top in range(0, rows, self._height):
                bottom = min(top + self._height, rows)
                down = scales[top // height : -(-bottom // height)]
                for left in range(0, columns, self._width):
                    right = min(left + self._width, columns)
                    self._encode_tile(
                        elements[top:bottom, left:right],
                        down[:, left // self._block_width : -(-right // self._block_width)],
                        codes[top:bottom, left:right],
                    )
        if self._row.numbers == "e4m3":
            return codes
        packed = self._memory("packed", (rows, columns // 2), np.uint8)
        _pack(codes, self._memory("pairs", packed.shape, np.uint16), packed)
        return packed

    def stored_scales(self, scales: Array, dtype: str) -> Array:
        """Return scales as they are stored in a dtype, as bytes `[rows, bytes of a row]`."""
        if dtype in ("F8_E8M0", "U8"):
            return (scales.view(np.uint32) >> 23).astype(np.uint8)
        flat = scales.copy().reshape(-1)
        stored: Array = np.empty(flat.shape, STORED[dtype])
        narrow(flat, np.empty(flat.shape, np.uint32), dtype, stored)
        return stored.reshape(scales.shape).view(np.uint8)

    @property
    def _block_width(self) -> int:
        return self._encoding.block[1]

    def _zero(self) -> float:
        """Return the scale of a block without any number but zero."""
        return self._row.zero or _EPSILON[self._encoding.dtype]

    def _largest(self, elements: Array) -> Array:
        """Return the bits of the largest magnitude in each block."""
        rows, columns = elements.shape
        height, width = self._encoding.block
        across, down = -(-columns // width), -(-rows // height)
        mask = elements.dtype.type((1 << (elements.dtype.itemsize * 8 - 1)) - 1)
        largest: Array = np.zeros((down, across), elements.dtype)
        step = height if height > 1 else self._height
        for number, top in enumerate(range(0, rows, step)):
            taken = elements[top : top + step]
            magnitudes = self._memory("magnitudes", taken.shape, elements.dtype)
            np.bitwise_and(taken, mask, out=magnitudes)
            if height > 1:
                padded: Array = np.zeros(across * width, elements.dtype)
                magnitudes.max(axis=0, out=padded[:columns])
                padded.reshape(across, width).max(axis=1, out=largest[number])
            else:
                into = largest[top : top + step]
                np.maximum.reduceat(magnitudes, range(0, columns, width), axis=1, out=into)
        return largest

    def _not_finite(self, elements: Array, infinite: int, name: str, first: int) -> BadCheckpoint:
        mask = elements.dtype.type((1 << (elements.dtype.itemsize * 8 - 1)) - 1)
        row, column = np.argwhere((elements & mask) >= infinite)[0]
        value = widened(elements[row, column : column + 1], self._dtype)[0]
        return BadCheckpoint(
            f"cannot quantize tensor {quoted(name)}: its element [{first + row}, {column}] is "
            f"{value:g}, and a number has to be finite",
            "leave the tensor out with --except",
        )

    def _encode_tile(self, elements: Array, scales: Array, codes: Array) -> None:
        """Fill `codes` with the code of each element, before codes are packed."""
        values = self._memory("values", elements.shape, np.float32)
        widen(elements, self._dtype, values)
        self._divide(values, scales)
        flat = values.reshape(-1)
        bits = self._memory("bits", flat.shape, np.uint32)
        if self._encoding.dtype == "F16":
            half = self._memory("half", flat.shape, np.float16)
            narrow(flat, bits, "F16", half)
            np.copyto(flat, half)
        words = flat.view(np.uint32)
        if self._encoding.dtype == "BF16":
            np.right_shift(words, 16, out=bits)
            np.bitwise_and(bits, 1, out=bits)
            np.add(bits, 0x7FFF, out=bits)
            np.add(bits, words, out=bits)
        else:
            np.bitwise_and(words, 0xFFFF, out=bits)
            np.add(bits, 0xFFFF, out=bits)
            np.bitwise_or(bits, words, out=bits)
        # numpy would make such an index of any other one, in new memory each time
        index = self._memory("index", flat.shape, np.intp)
        np.right_shift(bits, 16, out=index)
        found = self._memory("codes", flat.shape, np.uint8)
        np.take(_table(self._row.numbers), index, out=found, mode="clip")
        np.copyto(codes, found.reshape(elements.shape))
        if self._row.numbers == "e2m1":
            negative = elements == elements.dtype.type(1 << (8 * elements.dtype.itemsize - 1))
            if negative.any():
                codes[negative] = 8

    def _divide(self, values: Array, scales: Array) -> None:
        """Divide each number by the scale of its block."""
        rows, columns = values.shape
        width = self._block_width
        if scales.shape[1] == 1:
            np.divide(values, scales, out=values)
        elif columns % width == 0:
            blocks = values.reshape(rows, -1, width)
            np.divide(blocks, scales[:, :, None], out=blocks)
        else:
            np.divide(values, np.repeat(scales, width, axis=1)[:, :columns], out=values)

    def _memory(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return an array for the numbers of a tile."""
        return self._workspace.array(name, math.prod(shape), dtype).reshape(shape)


def _pack(codes: Array, spare: Array, packed: Array) -> None:
    """Put codes of four bits two in a byte, the first in the lower half."""
    pairs = codes.view(np.uint16)
    np.right_shift(pairs, 4, out=spare)
    np.bitwise_or(pairs, spare, out=spare)
    np.copyto(packed, spare, casting="unsafe")


@functools.cache
def _table(numbers: str) -> Array:
    """Return the code of each number, by the upper 16 bits of its float32."""
    patterns = np.arange(2**16, dtype=np.uint32) << 16
    single = patterns.view(np.float32)
    # the quotient of a number and a far too small scale may be infinite
    values = np.nan_to_num(single, posinf=1e38, neginf=-1e38).astype(np.float64)
    if numbers == "int4":
        table: Array = (np.clip(np.rint(values), -8, 7) + 8).astype(np.uint8)
        return table
    lowest, mantissa, largest = {"e4m3": (-6, 3, 448.0), "e2m1": (0, 1, 6.0)}[numbers]
    magnitude = np.minimum(np.abs(values), largest)
    exponent = np.where(magnitude > 0, np.frexp(magnitude)[1] - 1, lowest)
    exponent = np.maximum(exponent, lowest)
    steps = np.rint(np.ldexp(magnitude, mantissa - exponent)).astype(np.int64)
    code = steps + ((exponent - lowest) << mantissa)
    sign = (patterns >> 31).astype(np.int64) << (7 if numbers == "e4m3" else 3)
    if numbers == "e2m1":
        sign[values == 0] = 0  # a quotient that is too small has no sign in compressed-tensors
    floats: Array = (code | sign).astype(np.uint8)
    return floats


def elements_of(raw: memoryview, dtype: str, columns: int) -> Array:
    """Return the bits of stored elements as rows."""
    rows: Array = np.frombuffer(raw, _BITS[dtype]).reshape(-1, columns)
    return rows

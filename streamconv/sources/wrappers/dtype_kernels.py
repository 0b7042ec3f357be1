"""Numbers of one dtype as numbers of another, bit for bit as torch makes them. Pure on buffers.

numpy knows neither BF16 nor the floats of 8 bits. Here everything passes through float32, which
holds each of them exactly: BF16 is its upper half, a float of 8 bits one of 256 values, and what
narrows is rounded once, to nearest, ties to even. A NaN stays a NaN of its sign; what is too
large becomes infinite. Works on chunks that stay in cache, so it needs a few hundred kB whatever
the size of a tensor.
"""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

CHUNK = 2**14
"""Elements that are converted at once: 64 kB of float32, so that the few copies stay in cache."""

_FLOATS8 = {"F8_E4M3": (3, 7), "F8_E5M2": (2, 15), "F8_E4M3FNUZ": (3, 8), "F8_E5M2FNUZ": (2, 16)}
"""Bits of the mantissa, and what the exponent is larger by than it means."""
_POWERS = ("F8_E8M0", "U8")
"""A power of two, its exponent larger by 127; U8 is how it is stored where F8_E8M0 is unknown."""
_STORED: dict[str, Any] = {
    **dict.fromkeys((*_FLOATS8, *_POWERS), np.uint8),
    "BF16": np.uint16,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
}

_HALF_NORMAL = 113 << 23
"""The bits of the smallest float32 that is a float16 of full precision."""
_HALF_INFINITE = 143 << 23
"""Those of the smallest power of two that is none at all."""
_INFINITE = 255 << 23

Array = npt.NDArray[Any]
Bytes = memoryview | bytearray | bytes


def cast(
    stored: Bytes, dtype: str, out: memoryview, target: str, factors: Array | None = None
) -> None:
    """Fill `out` with the elements of `stored`, which are of `dtype`, as BF16, F16 or F32.

    `factors`, of float32, multiply each run of as many elements in float32. `stored` may lie at
    the end of `out` itself, where the target is no narrower.
    """
    source: Array = np.frombuffer(stored, _STORED[dtype])
    result: Array = np.frombuffer(out, _STORED[target])
    width = 1 if factors is None else len(factors)
    most = max(CHUNK // width, 1) * width
    values = np.empty(min(most, len(source)), np.float32)
    spare = np.empty(values.shape, np.uint32)
    for begin in range(0, len(source), most):
        taken = source[begin : begin + most]
        chunk = values[: len(taken)]
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            _widen(taken, dtype, chunk)
            if factors is not None:
                rows = chunk.reshape(-1, width)
                np.multiply(rows, factors, out=rows)
            _narrow(chunk, spare[: len(taken)], target, result[begin : begin + len(taken)])


def as_float32(stored: Bytes, dtype: str) -> Array:
    """The elements of `stored`, which are of `dtype`, as an array of float32."""
    values = np.empty(len(stored) // np.dtype(_STORED[dtype]).itemsize, np.float32)
    cast(stored, dtype, values.data.cast("B"), "F32")
    return values


def dequantize(
    stored: Bytes,
    dtype: str,
    out: memoryview,
    target: str,
    *,
    start: int,
    shape: tuple[int, ...],
    block: tuple[int, int],
    scales: Array,
) -> None:
    """Fill `out` with `stored` times its blocks' scales, rounded once to `target`.

    `stored` holds the elements from number `start` of a tensor of `shape`, whose last two
    dimensions are cut into blocks of `block` rows and columns. `scales`, of float32, are rows of
    the grid of blocks, beginning with the one that `start` lies in (`grid_rows`).
    """
    unit, width = (np.dtype(_STORED[name]).itemsize for name in (dtype, target))
    source = memoryview(stored)
    rows, columns = shape[-2:]
    first = grid_rows(start, 1, shape, block).start
    for begin, end in _bands(start, start + len(source) // unit, rows, columns, block[0]):
        row = scales[grid_rows(begin, 1, shape, block).start - first]
        factors = np.repeat(row, block[1])[begin % columns :][: min(end - begin, columns)]
        a, b = begin - start, end - start
        cast(source[a * unit : b * unit], dtype, out[a * width : b * width], target, factors)


def grid_rows(start: int, count: int, shape: tuple[int, ...], block: tuple[int, int]) -> range:
    """Rows of blocks, counted through all matrices, that `count` elements from `start` lie in."""
    rows, columns = shape[-2:]
    per_matrix = -(-rows // block[0])

    def row_of(element: int) -> int:
        matrix, row = divmod(element // columns, rows)
        return matrix * per_matrix + row // block[0]

    return range(row_of(start), row_of(start + count - 1) + 1)


def _bands(
    begin: int, end: int, rows: int, columns: int, block_rows: int
) -> Iterator[tuple[int, int]]:
    """`begin` to `end` cut into whole rows of one row of blocks each, and parts of a row."""
    while begin < end:
        row = begin // columns
        cancel = min(end, (row + 1) * columns)
        if begin % columns == 0 and cancel % columns == 0:
            within = row % rows
            left = min(block_rows - within % block_rows, rows - within)
            cancel = min(row + left, end // columns) * columns
        yield begin, cancel
        begin = cancel


def _widen(source: Array, dtype: str, values: Array) -> None:
    if source.dtype == np.uint8:
        np.take(_values(dtype), source, out=values, mode="clip")
    elif dtype == "BF16":
        np.left_shift(source, np.uint32(16), out=values.view(np.uint32))
    else:
        np.copyto(values, source, casting="unsafe")


def _narrow(values: Array, spare: Array, target: str, result: Array) -> None:
    """Fill `result` with `values`; what is in them and in `spare` is lost."""
    if target == "F32":
        np.copyto(result, values)
    elif target == "F16":
        _narrow_to_half(values, spare, result.view(np.uint16))
    else:
        _narrow_to_bfloat(values, spare, result)


def _narrow_to_half(values: Array, spare: Array, result: Array) -> None:
    """By its bits: numpy's own cast raises a flag of the processor for each number that is too
    large or too small, which makes it 20 times slower where there are many."""
    bits = values.view(np.uint32)
    np.right_shift(bits, 16, out=spare)
    sign = np.bitwise_and(spare, 0x8000).astype(np.uint16)
    np.bitwise_and(bits, 0x7FFFFFFF, out=bits)
    small, large = bits < _HALF_NORMAL, bits >= _HALF_INFINITE
    nans = bits > _INFINITE
    np.right_shift(bits, 13, out=spare)
    np.bitwise_and(spare, 1, out=spare)
    np.add(spare, bits, out=spare)
    np.add(spare, 0xFFF, out=spare)
    np.subtract(spare, _HALF_NORMAL - (1 << 23), out=spare)
    np.right_shift(spare, 13, out=spare)
    if small.any():
        # Beside a half, what a number has below the last bit of a subnormal one is rounded off.
        np.add(values, np.float32(0.5), out=values)
        np.subtract(bits, 0x3F000000, out=bits)
        np.copyto(spare, bits, where=small)
    if large.any():
        spare[large] = 0x7C00
        spare[nans] = 0x7E00
    np.bitwise_or(spare, sign, out=spare)
    np.copyto(result, spare, casting="unsafe")


def _narrow_to_bfloat(values: Array, spare: Array, result: Array) -> None:
    bits = values.view(np.uint32)
    np.right_shift(bits, 16, out=spare)
    np.bitwise_and(spare, 1, out=spare)
    np.add(spare, bits, out=spare)
    np.add(spare, 0x7FFF, out=spare)
    np.right_shift(spare, 16, out=spare)
    nans = np.isnan(values)
    if nans.any():
        spare[nans] = bits[nans] >> 16 | 0x40
    np.copyto(result, spare, casting="unsafe")


@functools.cache
def _values(dtype: str) -> Array:
    """What the 256 codes of a float of 8 bits stand for."""
    code = np.arange(256)
    if dtype in _POWERS:
        return np.append(np.ldexp(1.0, code[:-1] - 127), np.nan).astype(np.float32)
    bits, bias = _FLOATS8[dtype]
    exponent, mantissa = (code & 0x7F) >> bits, code & ((1 << bits) - 1)
    whole = mantissa + (exponent > 0) * (1 << bits)
    values = np.ldexp(whole, np.maximum(exponent, 1) - bias - bits)
    if dtype.endswith("FNUZ"):
        values[0x80] = np.nan
    elif dtype == "F8_E4M3":
        values[[0x7F, 0xFF]] = np.nan
    else:
        values[[0x7C, 0xFC]] = np.inf
        values[(exponent == 31) & (mantissa > 0)] = np.nan
    table: Array = np.where(code < 128, values, -values).astype(np.float32)
    return table

"""Codes and scales of numbers, computed a second time: from the definition of each of them.

How weights are quantized is deliberately written twice: here, to compare them, and in
`quantization/encode.py`, to write them. Neither uses the other. Here numbers are float64, rounded
where the format rounds, and a code is searched among the numbers that the codes mean.
"""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from streamconv.catalog.encodings import encoding_row
from streamconv.checkpoint.encoding import Encoding
from streamconv.verification.dequantize import float_of, floats8, rounded_to

Array = npt.NDArray[Any]

_SMALLEST = {"BF16": 2.0**-126, "F16": 2.0**-14, "F32": 2.0**-126}
"""The smallest normal number."""
_EPSILON = {"BF16": 2.0**-7, "F16": 2.0**-10, "F32": 2.0**-23}


def numbers_of(words: Array, dtype: str) -> Array:
    """Return the numbers that are stored, in float64."""
    values = float_of(words, dtype)
    if dtype not in _EPSILON:
        values = values.astype(np.float32).astype(np.float64)
    return values


def encoded(values: Array, encoding: Encoding) -> Array:
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

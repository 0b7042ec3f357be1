"""Powers of two as the scales of blocks, and conversions between float32 and stored bits."""

from typing import Any

import numpy as np
import numpy.typing as npt

from streamconv.quantization.dtype_kernels import STORED, narrow, values_of

Array = npt.NDArray[Any]

MANTISSA = {"BF16": 7, "F16": 10, "F32": 23}
"""Bits of the mantissa."""
_BIAS = {"BF16": 127, "F16": 15, "F32": 127}


def near_powers(largest: Array, dtype: str) -> Array:
    """Return the power of two near a quarter of each number, as compressed-tensors rounds it.

    A number of at least 1.75 times a power of two counts as the next power.

    Args:
        largest: The bits of the largest magnitude in each block.
        dtype: The dtype of these numbers.
    """
    mantissa = MANTISSA[dtype]
    exponent = (largest.astype(np.int64) + (1 << (mantissa - 2))) >> mantissa
    byte = exponent - _BIAS[dtype] + 127 - 2
    # compressed-tensors takes 1 if the power is too small for a float16
    smallest = 127 if dtype == "F16" else 0
    byte = np.where(exponent == 0, smallest, np.clip(byte, 0, 254))
    powers: Array = values_of("U8")[byte]
    return powers


def powers_above(scales: Array) -> Array:
    """Return the smallest power of two that is not below each scale."""
    bits = scales.view(np.uint32)
    exponent = (bits >> 23) + ((bits & 0x7FFFFF) != 0)
    powers: Array = values_of("U8")[np.minimum(exponent, 254)]
    return powers


def rounded(values: Array, dtype: str) -> Array:
    """Return float32 rounded to a dtype."""
    if dtype == "F32":
        return values
    flat = values.astype(np.float32).reshape(-1)
    short: Array = np.empty(flat.shape, STORED[dtype])
    narrow(flat, np.empty(flat.shape, np.uint32), dtype, short)
    return widened(short.view(np.uint16), dtype).reshape(values.shape)


def exponent_of_infinity(dtype: str) -> int:
    """Return the exponent of infinity in a dtype, as it is stored, with its bias."""
    return int(2 * _BIAS[dtype] + 1)


def widened(bits: Array, dtype: str) -> Array:
    """Return as float32 the numbers that have these bits in a dtype."""
    values: Array = np.empty(bits.shape, np.float32)
    widen(bits, dtype, values)
    return values


def widen(bits: Array, dtype: str, values: Array) -> None:
    """Fill `values`, of float32, with the numbers that have these bits in a dtype."""
    if dtype == "BF16":
        np.left_shift(bits, np.uint32(16), out=values.view(np.uint32))
    else:
        np.copyto(values, bits.view(STORED[dtype]))

"""Casts between floating dtypes, bit for bit as torch does them.

numpy knows neither BF16 nor the floats of 8 bits. Here every element passes through float32, which
holds all of them exactly: BF16 is its upper half, a float of 8 bits is one of 256 values. A
narrower result is rounded once, to nearest, ties to even. A NaN stays a NaN of its sign, and a
number that is too large becomes infinite. The work is done in chunks that stay in the cache, so
it needs a few hundred kB of memory for a tensor of any size.
"""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

CHUNK = 2**14
"""Elements that are cast at once: 64 kB of float32, so that the few copies stay in the cache."""

_FLOATS8 = {"F8_E4M3": (3, 7), "F8_E5M2": (2, 15), "F8_E4M3FNUZ": (3, 8), "F8_E5M2FNUZ": (2, 16)}
"""Bits of the mantissa, and the bias of the exponent."""
_POWERS = ("F8_E8M0", "U8")
"""A power of two whose exponent has the bias 127. U8 holds the same bits under another name."""
STORED: dict[str, Any] = {
    **dict.fromkeys((*_FLOATS8, *_POWERS), np.uint8),
    "BF16": np.uint16,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
}

_HALF_NORMAL = 113 << 23
"""The bits of the smallest float32 that is a normal float16."""
_HALF_INFINITE = 143 << 23
"""The bits of the smallest power of two that is too large for a float16."""
_INFINITE = 255 << 23
_ONE, _SIXTEEN, _BELOW_HALF = (np.array(number, np.uint32) for number in (1, 16, 0x7FFF))
"""As arrays, since numpy takes longer to look at an integer of Python than to add it."""

Array = npt.NDArray[Any]
Bytes = memoryview | bytearray | bytes


def cast(stored: Bytes, dtype: str, out: memoryview, target: str) -> None:
    """Fill a buffer with the elements of another one, cast to another dtype.

    Args:
        stored: The elements. It may be the end of `out` itself if the target is no narrower.
        dtype: The dtype of `stored`, any floating one of safetensors.
        out: The buffer for as many elements of the target.
        target: BF16, F16 or F32.
    """
    source: Array = np.frombuffer(stored, STORED[dtype])
    result: Array = np.frombuffer(out, STORED[target])
    values = np.empty(min(CHUNK, len(source)), np.float32)
    spare = np.empty(values.shape, np.uint32)
    for begin in range(0, len(source), CHUNK):
        taken = source[begin : begin + CHUNK]
        chunk = values[: len(taken)]
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            _widen(taken, dtype, chunk)
            narrow(chunk, spare[: len(taken)], target, result[begin : begin + len(taken)])


def as_float32(stored: Bytes, dtype: str) -> Array:
    """Return the elements of `stored`, which are of `dtype`, as an array of float32."""
    values = np.empty(len(stored) // np.dtype(STORED[dtype]).itemsize, np.float32)
    cast(stored, dtype, values.data.cast("B"), "F32")
    return values


def _widen(source: Array, dtype: str, values: Array) -> None:
    """Fill `values`, of float32, with the elements of `source`."""
    if source.dtype == np.uint8:
        np.take(values_of(dtype), source, out=values, mode="clip")
    elif dtype == "BF16":
        np.left_shift(source, _SIXTEEN, out=values.view(np.uint32))
    else:
        np.copyto(values, source, casting="unsafe")


def narrow(
    values: Array, spare: Array, target: str, result: Array, *, are_numbers: bool = False
) -> None:
    """Fill `result` with `values` as the target dtype; `values` and `spare` are overwritten.

    Args:
        values: Numbers of float32.
        spare: As many integers of 32 bits.
        target: BF16, F16 or F32.
        result: As many elements of the target; those of BF16 as integers.
        are_numbers: True if none of them is NaN. Then the search for NaN is left out.
    """
    if target == "F32":
        np.copyto(result, values)
    elif target == "F16":
        _narrow_to_half(values, spare, result.view(np.uint16))
    else:
        _narrow_to_bfloat(values, spare, result, are_numbers)


def _narrow_to_half(values: Array, spare: Array, result: Array) -> None:
    """Round to float16 by integer operations.

    numpy's own cast sets a processor flag for every number that is too large or too small,
    which makes it 20 times slower if there are many.
    """
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
        # adding 0.5 rounds off everything below the last bit of a subnormal float16
        np.add(values, np.float32(0.5), out=values)
        np.subtract(bits, 0x3F000000, out=bits)
        np.copyto(spare, bits, where=small)
    if large.any():
        spare[large] = 0x7C00
        spare[nans] = 0x7E00
    np.bitwise_or(spare, sign, out=spare)
    np.copyto(result, spare, casting="unsafe")


def _narrow_to_bfloat(values: Array, spare: Array, result: Array, are_numbers: bool) -> None:
    """Round to bfloat16: add half of the last bit that stays, and cut off the lower half."""
    bits = values.view(np.uint32)
    np.right_shift(bits, _SIXTEEN, out=spare)
    np.bitwise_and(spare, _ONE, out=spare)
    np.add(spare, bits, out=spare)
    np.add(spare, _BELOW_HALF, out=spare)
    np.right_shift(spare, _SIXTEEN, out=spare)
    # the largest of numbers that include a NaN is NaN, and faster to find
    largest = np.float32(0) if are_numbers else np.maximum.reduce(values, initial=-np.inf)
    if largest != largest:  # noqa: PLR0124 - only a NaN differs from itself
        nans = np.isnan(values)
        spare[nans] = bits[nans] >> 16 | 0x40
    np.copyto(result, spare, casting="unsafe")


@functools.cache
def values_of(dtype: str) -> Array:
    """Return the 256 values of a float of 8 bits, as float32."""
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

"""Reads the entry of one tensor in the header of a safetensors file, and checks its rules.

    "name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}

A header has up to a million entries. The usual ones are read by `safetensors_reader` in bulk.
"""

import functools
import math
import sys
from typing import Any

from streamconv.formats.safetensors import DTYPE_BITS, MAX_DIMS, MAX_SIZE, Entry
from streamconv.formats.strict_json import Cursor

FIELDS = {"dtype", "shape", "data_offsets"}


class InvalidEntry(Exception):
    """A rule of the format that a tensor's entry breaks."""


def read_entry(name: str, cursor: Cursor) -> Entry:
    """Read the entry of a tensor from its place in the header.

    Raises InvalidEntry if a field is missing, unknown or wrong, or the size contradicts the shape.
    """
    return _parse_entry(name, _read_fields(cursor))


def _read_fields(cursor: Cursor) -> Any:
    """Return the value of an entry. One that is too long is refused before it is parsed."""
    try:
        return cursor.small_value()
    except OverflowError as error:
        raise InvalidEntry(
            f"{error} ... is more than a dtype, a shape and data_offsets take"
        ) from None


def _parse_entry(name: str, fields: Any) -> Entry:
    """Build the entry of a tensor from its value in the header. Raises InvalidEntry."""
    if not isinstance(fields, dict) or fields.keys() != FIELDS:
        raise InvalidEntry("not an object of dtype, shape and data_offsets alone")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str):
        raise InvalidEntry(f"dtype {dtype} is not one of the format's")
    if not _are_sizes(shape) or len(shape) > MAX_DIMS:
        raise InvalidEntry(f"shape {str(shape)[:80]} is not a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise InvalidEntry(f"data_offsets {str(offsets)[:80]} are not a begin and an end")
    return _entry(name, dtype, shape_of(",".join(map(str, shape))), *offsets)


def _entry(name: str, dtype: str, shape: tuple[int, ...], begin: int, end: int) -> Entry:
    """Build an entry from fields of the right types. Raises InvalidEntry if they make no sense."""
    bits = DTYPE_BITS.get(dtype)
    if bits is None:
        raise InvalidEntry(f"dtype {dtype} is not one of the format's")
    if end < begin:
        raise InvalidEntry(f"data_offsets {[begin, end]} are not a begin and an end")
    expected, span = math.prod(shape) * bits, 8 * (end - begin)
    if expected != span:
        raise InvalidEntry(
            f"{dtype} {[*shape]} takes {expected} bits, its data_offsets span {span}"
        )
    return Entry(name, sys.intern(dtype), shape, begin, end)


@functools.lru_cache(maxsize=1024)
def shape_of(sizes: str) -> tuple[int, ...]:
    """Return the shape of sizes with commas between them. Equal ones share one object."""
    return tuple(map(int, sizes.split(","))) if sizes else ()


def _are_sizes(values: Any) -> bool:
    """Return True for a list of integers that fit a file. JSON's `true` and `2.0` do not count."""
    if not isinstance(values, list):
        return False
    for value in values:  # noqa: SIM110 - a header has a million of these
        if type(value) is not int or not 0 <= value < MAX_SIZE:
            return False
    return True

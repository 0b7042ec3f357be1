"""Unpack the numbers of a plane: bytes of its tensor become float32."""

import dataclasses
import functools
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamconv.checkpoint.decoding import Plane
from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.quantization.dtype_kernels import STORED, Bytes, as_float32, values_of
from streamconv.quantization.workspace import Allocate, Workspace, fresh

Array = npt.NDArray[Any]

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The values of a float of 4 bits; the highest bit is its sign."""
_MANY = 2**12
"""For at least so many 8-bit floats, it pays to look up pairs of them in a larger table."""
_HEIGHT, _WIDTH = 512, 64
"""Rows and columns that are transposed at once."""


@dataclass(frozen=True, slots=True)
class LoadedPlane:
    """Bytes of a plane in memory: some rows of its tensor for one matrix."""

    name: str
    """Name of the tensor, for errors."""
    plane: Plane
    first: int
    """The first row."""
    rows: Array
    """The rows as bytes, `[rows, bytes of a row]`; columns of the tensor if it is transposed."""

    @classmethod
    def of(
        cls, name: str, plane: Plane, first: int, raw: Bytes, allocate: Allocate = fresh
    ) -> "LoadedPlane":
        """Return rows of a tensor. If it is transposed, they are turned into rows of the grid.

        Bytes of codes that are packed along its rows are turned in pairs, as elements of 16 bits:
        half as many elements take half as long.

        Args:
            name: Name of the tensor.
            plane: Where its numbers are.
            first: The first row.
            raw: The rows as they are stored.
            allocate: Has the memory for those that are turned.
        """
        data: Array = np.frombuffer(raw, np.uint8)
        if not plane.is_transposed:
            return cls(name, plane, first, data.reshape(-1, plane.row_bytes))
        rows, columns = plane.stored
        if plane.packed == "rows" and DTYPE_BITS[plane.dtype] == 8 and not columns % 2:
            columns //= 2
            plane = dataclasses.replace(plane, dtype="U16", stored=(rows, columns))
        width = plane.row_bytes // plane.stored[1]
        words = data.view(np.dtype(f"u{width}")).reshape(plane.stored)
        turned: Array = np.ndarray(plane.stored[::-1], words.dtype, allocate(len(data)))
        for top, left in itertools.product(range(0, rows, _HEIGHT), range(0, columns, _WIDTH)):
            bottom, right = top + _HEIGHT, left + _WIDTH
            turned[left:right, top:bottom] = words[top:bottom, left:right].T
        return cls(name, plane, first, turned.view(np.uint8).reshape(plane.stored[1], -1))


def rows_needed(plane: Plane, rows: range) -> range:
    """Return the rows of a tensor that hold a plane's numbers for some rows of the matrix."""
    if plane.is_transposed:
        return range(plane.stored[0])
    first, last = rows.start // plane.block[0], (rows.stop - 1) // plane.block[0]
    if plane.packed == "rows":
        per_element = DTYPE_BITS[plane.dtype] // plane.bits
        return range(first // per_element, last // per_element + 1)
    return range(first, last + 1)


def grid_rows(
    loaded: LoadedPlane, rows: range, columns: int, role: str, workspace: Workspace
) -> Array:
    """Return rows of a grid as float32.

    Args:
        loaded: The tensor.
        rows: Numbers of the rows.
        columns: How many columns the grid has.
        role: What the grid is, by which the workspace knows its memory.
        workspace: Has memory for the numbers, until rows of that role are asked for again.

    Raises:
        BadCheckpoint: A code is wider than the format says.
    """
    plane = loaded.plane
    if plane.packed == "rows":
        return _unpack_rows(loaded, rows, columns)
    data = loaded.rows[rows.start - loaded.first : rows.stop - loaded.first]
    values = _unpack_columns(plane, data, role, workspace)[:, :columns]
    if not plane.packed and plane.bits < DTYPE_BITS[plane.dtype]:
        _check_range(loaded, values)
    return values


def values_of_bytes(plane: Plane) -> Array:
    """Return the number that each byte means as a code of 8 bits."""
    if plane.values == "float":
        return values_of(plane.dtype)
    if plane.dtype == "I8":
        return np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float32)
    return _codes(plane)


def _check_range(loaded: LoadedPlane, values: Array) -> None:
    """Raise BadCheckpoint for a code that is wider than the format says."""
    most = 1 << (loaded.plane.bits - 1)
    wrong = (values < -most) | (values >= most)
    if wrong.any():
        raise BadCheckpoint(
            f"tensor {quoted(loaded.name)} has the code {values[wrong][0]:g}, and codes of "
            f"{loaded.plane.bits} bits are from {-most} to {most - 1}"
        )


def _unpack_columns(plane: Plane, data: Array, role: str, workspace: Workspace) -> Array:
    """Return the numbers in rows of bytes as float32, `[rows, numbers]`."""
    if plane.bits == 4 and (plane.packed or DTYPE_BITS[plane.dtype] < 8):
        values = _take(pairs_of_bytes(plane), data, role, workspace)
        if plane.order:
            grouped = values.reshape(len(values), -1, len(plane.order))
            values = grouped[:, :, np.argsort(plane.order)].reshape(len(values), -1)
        return values
    if plane.values == "int":
        values = workspace.array(role, data.size, np.float32).reshape(data.shape)
        np.copyto(values, data.view(np.int8) if plane.dtype == "I8" else data)
        return np.subtract(values, np.float32(plane.offset), out=values) if plane.offset else values
    if data.shape[1] and STORED[plane.dtype] == np.uint8:
        if data.size >= _MANY and data.shape[1] % 2 == 0:
            return _take(_float_pairs(plane.dtype), data.view(np.uint16), role, workspace)
        return _take(values_of(plane.dtype), data, role, workspace)
    flat = as_float32(np.ascontiguousarray(data).data.cast("B"), plane.dtype)
    return flat.reshape(len(data), -1)


def _take(table: Array, numbers: Array, role: str, workspace: Workspace) -> Array:
    """Return the entries of a table with some numbers, as float32, `[rows, numbers]`."""
    index = workspace.array("spare", numbers.size, np.intp).reshape(numbers.shape)
    np.copyto(index, numbers)
    entries = workspace.array(role, numbers.size, table.dtype).reshape(numbers.shape)
    np.take(table, index, out=entries, mode="clip")
    return entries.view(np.float32)


def _unpack_rows(loaded: LoadedPlane, rows: range, columns: int) -> Array:
    """Return rows of a grid, several of which are in one row of elements."""
    plane = loaded.plane
    width = DTYPE_BITS[plane.dtype] // 8
    per_element = DTYPE_BITS[plane.dtype] // plane.bits
    first = rows.start // per_element
    last = (rows.stop - 1) // per_element + 1
    data = loaded.rows[first - loaded.first : last - loaded.first]
    elements = data.reshape(len(data), -1, width)[:, :columns]
    values = np.empty((len(data), per_element, columns), np.float32)
    taken = np.empty((len(data), columns), np.float32)
    for place in range(per_element):
        byte, half = divmod(place * plane.bits, 8)
        np.take(_singles(plane, half), elements[:, :, byte], out=taken, mode="clip")
        values[:, plane.order[place] if plane.order else place] = taken
    begin = rows.start - first * per_element
    return values.reshape(-1, columns)[begin : begin + len(rows)]


@functools.cache
def _codes(plane: Plane) -> Array:
    """Return the number that each code means."""
    numbers = np.arange(1 << plane.bits)
    if plane.values.startswith("e2m1"):
        codes = np.array([*E2M1, *(-value for value in E2M1)], np.float32)
        return codes + np.float32(0) if plane.values == "e2m1+0" else codes
    if plane.offset < 0:
        # zero points are stored minus one, so the largest code means zero
        return (numbers - plane.offset & (1 << plane.bits) - 1).astype(np.float32)
    return (numbers - plane.offset).astype(np.float32)


@functools.cache
def pairs_of_bytes(plane: Plane) -> Array:
    """Return the two numbers in each byte of codes of 4 bits, as one number of 64 bits."""
    byte = np.arange(256)
    codes = _codes(plane)
    pairs = np.stack([codes[byte & 15], codes[byte >> 4]], axis=1)
    return np.ascontiguousarray(pairs).view(np.uint64).reshape(-1)


@functools.cache
def _float_pairs(dtype: str) -> Array:
    """Return the values of any two neighboring floats of 8 bits, as one number of 64 bits."""
    values = values_of(dtype)
    second, first = np.meshgrid(values, values, indexing="ij")
    return np.stack([first, second], axis=-1).view(np.uint64).reshape(-1)


@functools.cache
def _singles(plane: Plane, shift: int) -> Array:
    """Return the number that each byte means if a code begins at a given bit of it."""
    codes = np.arange(256) >> shift & (1 << plane.bits) - 1
    singles: Array = _codes(plane)[codes]
    return singles

"""Decode 4-bit codes with 8-bit scales: a table has the results for each byte of codes and scale.

The index has 16 bits, the scale and the byte of codes. An entry is the results of both codes in the
byte. So an element takes half a lookup, and no arithmetic.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from streamconv.checkpoint.decoding import Decoding
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.quantization.dtype_kernels import STORED, narrow, values_of
from streamconv.quantization.unpack import LoadedPlane, pairs_of_bytes
from streamconv.quantization.workspace import Workspace

Array = npt.NDArray[Any]

_SIXTEEN = np.array(16, np.uint32)


def has_pair_table(decoding: Decoding, target: str) -> bool:
    """Return True if the results of a matrix can be looked up for a byte and its scale.

    Args:
        decoding: How the matrix is decoded.
        target: The dtype of the result.
    """
    codes, scale = decoding.codes, decoding.plane("scale")
    if scale is None or decoding.plane("zero") or decoding.plane("index"):
        return False
    if codes.bits != 4 or codes.order or DTYPE_BITS[target] != 16:
        return False
    if scale.values != "float" or STORED.get(scale.dtype) != np.uint8:
        return False
    if codes.packed == "rows":
        return DTYPE_BITS[codes.dtype] == 8 and scale.block[0] % 2 == 0
    is_packed = bool(codes.packed) or DTYPE_BITS[codes.dtype] < 8
    return is_packed and scale.block[1] % 2 == 0 and codes.row_bytes * 2 == decoding.shape[1]


def pair_table(
    decoding: Decoding, second: np.float32 | None, target: str, workspace: Workspace
) -> Array:
    """Return the results for each scale and each byte of codes: two of 16 bits in each entry.

    Entries for a scale that is NaN, infinite or zero are never looked up.

    Args:
        decoding: How the matrix is decoded.
        second: The second scale, if there is one.
        target: The dtype of the result.
        workspace: Keeps the table.
    """
    scale = decoding.plane("scale")
    assert scale is not None
    plane = decoding.codes
    key = plane.values, plane.offset, scale.dtype, second, decoding.second, target

    def results() -> Array:
        scales = values_of(scale.dtype)
        if second is not None:
            combine = np.multiply if decoding.second == "multiplies" else np.divide
            scales = combine(scales, second)
        values = scales[:, None] * pairs_of_bytes(plane).view(np.float32)
        flat = values.reshape(-1)
        made: Array = np.empty(len(flat), STORED[target])
        narrow(flat, np.empty(len(flat), np.uint32), target, made)
        return made.view(np.uint32)

    return workspace.table(key, results)


def look_up(
    table: Array,
    codes: LoadedPlane,
    others: Mapping[str, LoadedPlane],
    rows: range,
    result: Array,
    workspace: Workspace,
) -> None:
    """Fill rows of the result.

    Args:
        table: What `pair_table` returned.
        codes: The codes of the matrix.
        others: What belongs to them, by role.
        rows: The numbers of the rows.
        result: The rows, `[rows, columns]`, in elements of 16 bits.
        workspace: Has the memory for places in the table.
    """
    result = result.view(np.uint16)
    if codes.plane.packed == "rows":
        _look_up_rows(table, codes, others["scale"], rows, result, workspace)
        return
    data = codes.rows[rows.start - codes.first : rows.stop - codes.first]
    height = others["scale"].plane.block[0]
    numbers = np.arange(rows.start, rows.stop) // height
    places = _places(data, others["scale"], numbers, workspace, codes_across=2)
    np.take(table, places, out=result.view(np.uint32), mode="clip")


def _look_up_rows(
    table: Array,
    codes: LoadedPlane,
    scales: LoadedPlane,
    rows: range,
    result: Array,
    workspace: Workspace,
) -> None:
    """Fill rows of the result if a byte has two codes of a column."""
    first, last = rows.start // 2, (rows.stop - 1) // 2 + 1
    data = codes.rows[first - codes.first : last - codes.first]
    numbers = np.arange(first, last) * 2 // scales.plane.block[0]
    places = _places(data, scales, numbers, workspace, codes_across=1)
    pairs = workspace.array("pairs", places.size, np.uint32).reshape(places.shape)
    np.take(table, places, out=pairs, mode="clip")
    odd = rows.start % 2
    for half in range(2):
        into = result[half ^ odd :: 2]
        skipped = odd if half == 0 else 0
        np.copyto(into, pairs[skipped : skipped + len(into)], casting="unsafe")
        np.right_shift(pairs, _SIXTEEN, out=pairs)


def _places(
    data: Array, scales: LoadedPlane, numbers: Array, workspace: Workspace, *, codes_across: int
) -> Array:
    """Return the place of each byte in the table.

    Args:
        data: Bytes of codes, in rows.
        scales: The scales.
        numbers: The row of scales for each row of bytes, in order.
        workspace: Has the memory for them.
        codes_across: Columns that a byte has codes for.
    """
    width = scales.plane.block[1] // codes_across
    first, last = int(numbers[0]), int(numbers[-1]) + 1
    above = scales.rows[first - scales.first : last - scales.first].astype(np.uint16) << 8
    if width > 1:
        above = np.repeat(above, width, axis=1)[:, : data.shape[1]]
    places = workspace.array("places", data.size, np.uint16).reshape(data.shape)
    np.copyto(places, data)
    if len(above) == len(data):
        np.bitwise_or(places, above, out=places)
    else:
        ends = np.searchsorted(numbers, np.arange(first, last), side="right").tolist()
        for begin, end, row in zip([0, *ends], ends, above, strict=False):
            np.bitwise_or(places[begin:end], row, out=places[begin:end])
    index = workspace.array("spare", data.size, np.intp).reshape(data.shape)
    np.copyto(index, places)
    return index

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
_EIGHT, _BYTE = np.array(8, np.uint16), np.array(255, np.uint16)


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
        rows: The numbers of the rows. They share a row of scales if rows are packed.
        result: The rows, `[rows, columns]`, in elements of 16 bits.
        workspace: Has the memory for places in the table.
    """
    result = result.view(np.uint16)
    if codes.plane.packed == "rows":
        _look_up_rows(table, codes, others["scale"], rows, result, workspace)
        return
    data = codes.rows[rows.start - codes.first : rows.stop - codes.first]
    places = workspace.array("places", data.size, np.uint16).reshape(data.shape)
    np.copyto(places, data)
    _add_scales(places, others["scale"], rows)
    index = workspace.array("spare", places.size, np.intp).reshape(places.shape)
    np.copyto(index, places)
    table.take(index, out=result.view(np.uint32), mode="clip")


def _look_up_rows(
    table: Array,
    codes: LoadedPlane,
    scales: LoadedPlane,
    rows: range,
    result: Array,
    workspace: Workspace,
) -> None:
    """Fill rows of the result, if an element has the codes of a column in 2 rows, or in 4."""
    width = DTYPE_BITS[codes.plane.dtype] // 8
    height = 2 * width
    first, last = rows.start // height, (rows.stop - 1) // height + 1
    elements = codes.rows[first - codes.first : last - codes.first].view(f"u{width}")
    number = rows.start // scales.plane.block[0] - scales.first
    above = _places_of(scales, scales.rows[number], elements.shape[1], codes_across=1)
    places = workspace.array("places", elements.size, np.uint16).reshape(elements.shape)
    index = workspace.array("spare", elements.size, np.intp).reshape(elements.shape)
    pairs = workspace.array("pairs", elements.size, np.uint32).reshape(elements.shape)
    for byte in range(width):
        if width == 1:
            np.copyto(places, elements)
        elif byte == 0:
            np.bitwise_and(elements, _BYTE, out=places)
        else:
            np.right_shift(elements, _EIGHT, out=places)
        np.bitwise_or(places, above, out=places)
        np.copyto(index, places)
        table.take(index, out=pairs, mode="clip")
        for half in range(2):
            if half:
                np.right_shift(pairs, _SIXTEEN, out=pairs)
            begin = first * height + 2 * byte + half - rows.start
            skipped = int(begin < 0)
            into = result[begin + skipped * height :: height]
            np.copyto(into, pairs[skipped : skipped + len(into)], casting="unsafe")


def _add_scales(places: Array, scales: LoadedPlane, rows: range) -> None:
    """Add the scale of each byte of codes to its place in the table.

    Args:
        places: The bytes of codes, each of which has two columns, as numbers of 16 bits.
        scales: The scales.
        rows: The numbers of the rows.
    """
    height = scales.plane.block[0]
    first, last = rows.start // height, (rows.stop - 1) // height + 1
    stored = scales.rows[first - scales.first : last - scales.first]
    above = _places_of(scales, stored, places.shape[1], codes_across=2)
    if len(above) in (1, len(rows)):
        np.bitwise_or(places, above, out=places)
        return
    for number, row in enumerate(above, first):
        begin, end = max(number * height, rows.start), (number + 1) * height
        part = places[begin - rows.start : end - rows.start]
        np.bitwise_or(part, row, out=part)


def _places_of(scales: LoadedPlane, stored: Array, count: int, *, codes_across: int) -> Array:
    """Return where the results of each scale begin in the table, for `count` bytes of a row.

    Args:
        scales: Where the scales are.
        stored: A row of scales, or several.
        count: Bytes of codes.
        codes_across: Columns that a byte has codes for.
    """
    places: Array = stored.astype(np.uint16) << 8
    width = scales.plane.block[1] // codes_across
    return np.repeat(places, width, axis=-1)[..., :count] if width > 1 else places

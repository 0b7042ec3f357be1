"""Read the shape of a matrix that a checkpoint stores as numbers: `weight_shape`."""

import math
from collections.abc import Callable

from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.quantization.number_format import NumberFormat
from streamconv.quantization.stems import Stem

MatrixShape = tuple[int, int]
"""The rows (outputs) and columns (inputs) of a matrix, as a `weight_shape` records them."""

ReadSmall = Callable[[TensorInfo], bytes]
"""Reads all bytes of a small tensor."""


def stored_shape(row: NumberFormat, stem: Stem, read: ReadSmall | None) -> MatrixShape | None:
    """Return the shape of the matrix that a stem records, if it can be read.

    If its codes hold several matrices, it is the shape of the first.
    """
    part = row.part("shape")
    info = stem.find(part.words) if part else None
    if info is None or part is None or read is None or info.dtype not in part.dtypes:
        return None
    raw = read(info)
    if not any(raw):
        # a file that was made only for its header contains zeros; reading such a weight fails
        return None
    codes = stem.find(row.codes.words)
    matrices = math.prod(codes.shape[:-2]) if codes else 1
    one = len(raw) // matrices if matrices and len(raw) % matrices == 0 else len(raw)
    return read_shape(info, raw[:one])


def read_shape(info: TensorInfo, raw: bytes) -> MatrixShape:
    """Return the rows and columns that a tensor stores as numbers.

    A tensor for several matrices on top of each other has one pair for each of them.

    Raises:
        BadCheckpoint: The tensor does not hold two positive numbers, or the columns differ.
    """
    width = DTYPE_BITS[info.dtype] // 8
    numbers = [
        int.from_bytes(raw[at : at + width], "little", signed=True)
        for at in range(0, len(raw), width)
    ]
    if len(numbers) < 2 or len(numbers) % 2 or min(numbers) < 1 or len(set(numbers[1::2])) > 1:
        raise BadCheckpoint(
            f"tensor {quoted(info.name)} says the shape {numbers[:8]}, which is no matrix"
        )
    return sum(numbers[::2]), numbers[1]

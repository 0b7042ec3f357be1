"""How a weight is quantized as it is read: which of its numbers share a scale.

A weight becomes several tensors, such as codes and scales. Each of them is made from the weight.
"""

import math
from dataclasses import dataclass

from streamconv.catalog.encodings import encoding_row
from streamconv.formats.safetensors import DTYPE_BITS

BAND_ELEMENTS = 2**19
"""Elements of a weight that are read and encoded at once, rounded up to whole blocks."""
TILE = 2**18
"""Elements that are encoded by one call of each operation. In smaller tiles, which stay in the
fastest cache, two workers wait for each other's calls more than for memory."""
TILE_BYTES = 19
"""Memory for each element of a tile: its number, its bits, and the place of its code."""
ENCODE_SCRATCH_BYTES = 2**19
"""Further memory for the encoding of any weight, such as arrays of one row."""
AGAIN_ELEMENTS = 2**17
"""Elements of a weight that a verification reads at once."""
AGAIN_TILE = 2**14
"""Elements of them that it quantizes at once: in float64, they still fit a core's own cache."""
AGAIN_NUMBER_BYTES = 68
"""Memory for each of them: numbers in float64, and their places."""
AGAIN_LEAST_BYTES = 2**18
"""Further memory for any number of elements."""
KEPT_SCALES_BYTES = 8 * 2**20
"""Bytes of computed scales that all workers together keep until they are written."""


@dataclass(frozen=True, slots=True)
class View:
    """A matrix or vector inside a stored tensor: a strided array over its elements."""

    start: int
    """Its first element."""
    strides: tuple[int, ...]
    """Elements from one position to the next, for each dimension."""

    def span(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the range of elements that have to be read for the view: the first, and the end.

        These are whole rows of the outer dimension, so that matrices next to each other have the
        same span.
        """
        if self.is_contiguous(shape):
            return self.start, self.start + math.prod(shape)
        sizes = [(stride, n) for stride, n in zip(self.strides, shape, strict=True) if n > 1]
        outer, count = max(sizes)
        if len(sizes) == 1:
            return self.start, self.start + outer * (count - 1) + 1
        begin = self.start // outer * outer
        return begin, begin + outer * count

    def is_contiguous(self, shape: tuple[int, ...]) -> bool:
        """Return True if its elements are contiguous and in order."""
        expected = 1
        for stride, n in zip(reversed(self.strides), reversed(shape), strict=True):
            if n > 1 and stride != expected:
                return False
            expected *= n
        return True


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the matrices of a weight are quantized. Weights of one kind share it."""

    name: str
    """The row of `encodings` in `quantization.toml`."""
    scales: str | None
    """The value of `--scale`."""
    shape: tuple[int, int]
    """Rows and columns of a matrix."""
    block: tuple[int, int]
    """Rows and columns that share a scale; the blocks at the end may have fewer."""
    stored: str
    """The dtype of the elements that are encoded: F32, BF16 or F16."""
    dtype: str
    """The dtype in which scales and quotients are computed: F32, BF16 or F16."""
    role: str
    """The tensor that is made: `codes`, `scale` or `shape`."""

    @property
    def band_rows(self) -> int:
        """Rows that are encoded at once, a whole number of blocks."""
        blocks = max(BAND_ELEMENTS // max(self.shape[1] * self.block[0], 1), 1)
        return min(blocks * self.block[0], self.shape[0])


def encoding_bytes(encoding: Encoding, view: View | None, dtype: str) -> int:
    """Return the bytes that a worker needs to quantize a weight that is stored in a dtype."""
    rows, columns = encoding.band_rows, encoding.shape[1]
    height, width = encoding.block
    elements = rows * columns
    itemsize = DTYPE_BITS[dtype] // 8
    codes = elements
    if encoding_row(encoding.name, encoding.scales).numbers != "e4m3":
        codes += elements * 3 // 2  # the packed codes, and room for packing
    magnitudes = min(max(TILE, height * columns), elements) * itemsize
    tile = min(max(TILE, height * width), elements) * TILE_BYTES
    scales = 16 * -(-rows // height) * -(-columns // width)
    as_float32 = elements * 4 if dtype == "F64" else 0
    band = elements * itemsize + as_float32 + codes + magnitudes + tile + scales
    return band + view_bytes(view, encoding.shape, dtype) + ENCODE_SCRATCH_BYTES


def encoding_again_bytes(encoding: Encoding, view: View | None, dtype: str) -> int:
    """Return the bytes that a thread of a verification needs to quantize a weight again."""
    (rows, columns), (height, width) = encoding.shape, encoding.block
    band = min(max(AGAIN_ELEMENTS // (columns * height), 1) * height, rows) * columns
    stored = max(band * DTYPE_BITS[dtype] // 8, view_bytes(view, encoding.shape, dtype))
    return stored + band + again_bytes(band, height * width)


def again_bytes(elements: int, block: int = 1) -> int:
    """Return the bytes that a thread of a verification needs to compute numbers of a weight.

    Args:
        elements: How many there are.
        block: Of these, how many have to be computed at once.
    """
    return AGAIN_LEAST_BYTES + min(elements, max(AGAIN_TILE, block)) * AGAIN_NUMBER_BYTES


def view_bytes(view: View | None, shape: tuple[int, ...], dtype: str) -> int:
    """Return the bytes that are read at once for a matrix that is not contiguous; 0 if it is."""
    if view is None or view.is_contiguous(shape):
        return 0
    begin, end = view.span(shape)
    return (end - begin) * DTYPE_BITS[dtype] // 8

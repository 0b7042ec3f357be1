"""How a quantized weight is decoded: where its codes, scales and zero points lie.

Codes, scales and zero points are planes: grids of numbers for the rows and columns of a matrix,
each stored in a tensor in some order. The value of an element is

    (code - zero) * scale          in float32, with the zero and the scale of the element's block

and a second scale multiplies or divides the first, in float32 too. All sizes are those of one
matrix; a tensor holds one or more of them, one after the other.
"""

from dataclasses import dataclass

from streamconv.formats.safetensors import DTYPE_BITS

Block = tuple[int, int]
"""Rows and columns."""


@dataclass(frozen=True, slots=True)
class Plane:
    """A grid of numbers, each for a block of the elements of a matrix."""

    dtype: str
    """The dtype of the tensor."""
    values: str
    """What its codes stand for: `float`, `int`, `e2m1`, or `e2m1+0`, as in `quantization.toml`."""
    bits: int
    """Width of a code. An element of the tensor holds one or more of them, the first lowest."""
    offset: int
    """Subtracted from an integer."""
    shape: tuple[int, int]
    """Rows and columns of the grid, in the order of the decoded matrix."""
    block: Block
    """Rows and columns that share a number; the last block of a row or column may be smaller."""
    stored: tuple[int, int]
    """Rows and columns of the tensor's elements for one matrix."""
    is_transposed: bool = False
    """True if a row of the tensor is a column of the grid."""
    packed: str = ""
    """The direction along which an element holds several codes: `rows` or `columns` of the grid."""
    order: tuple[int, ...] = ()
    """The position of each code in its element, if they are not in order."""
    matrices: int = 1
    """Matrices in the tensor; 1 if all matrices of the weight share the numbers of one."""

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor for one matrix."""
        return self.stored[0] * self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of the tensor."""
        return self.stored[1] * max(DTYPE_BITS[self.dtype] // 8, 1)


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the matrices of a weight are decoded. Weights of one kind share it."""

    format: str
    """The row of `quantization.toml`."""
    shape: tuple[int, int]
    """Rows and columns of a matrix, as it is decoded."""
    codes: Plane
    planes: tuple[tuple[str, Plane], ...]
    """The other tensors that are read, in the order of `Cast.companions`, each by its role:
    `scale`, `zero`, `second`, `index` or `shape`."""
    second: str = ""
    """`multiplies` or `divides`, if there is a second scale."""

    def plane(self, role: str) -> Plane | None:
        """Return the plane that has a role, or None."""
        return next((plane for name, plane in self.planes if name == role), None)

    @property
    def is_in_rows(self) -> bool:
        """True if the codes of each row of the result are contiguous in the tensor."""
        return not self.codes.is_transposed and self.codes.packed != "rows"

    @property
    def scratch_bytes(self) -> int:
        """Bytes for codes that are read into a buffer of their own and transposed."""
        return 0 if self.is_in_rows else 2 * self.codes.nbytes

    @property
    def companion_bytes(self) -> int:
        """Bytes for the companions of a matrix's codes, and for transposing them."""
        return sum(plane.nbytes * (1 + plane.is_transposed) for _, plane in self.planes)

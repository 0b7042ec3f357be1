"""How a quantized weight is decoded: where its codes, scales and zero points lie.

Everything that belongs to a weight is a plane: a grid of numbers for the rows and columns of a
matrix, stored in a tensor in some order. The value of an element is

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
    """What is in it: `float`, `int`, `e2m1`, or `e2m1+0`, as in `quantization.toml`."""
    bits: int
    """Width of a code. An element of the tensor holds one or more of them, the first lowest."""
    offset: int
    """Subtracted from an integer."""
    shape: tuple[int, int]
    """Rows and columns of the grid, in the order of the decoded matrix."""
    block: Block
    """The elements that one number is for; the last block of a row or column may be smaller."""
    stored: tuple[int, int]
    """Rows and columns of the tensor's elements for one matrix."""
    is_transposed: bool = False
    """True if a row of the tensor is a column of the grid."""
    packed: str = ""
    """The direction in which an element's codes follow, `rows` or `columns` of the grid."""
    order: tuple[int, ...] = ()
    """The place of each code of an element, if they are not in order."""
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
    """What else is read, in the order of the cast's companions, each by its role: `scale`, `zero`,
    `second`, `index`, `shape`."""
    second: str = ""
    """`multiplies` or `divides`, if there is a second scale."""

    def plane(self, role: str) -> Plane | None:
        """Return the plane that has a role, or None."""
        return next((plane for name, plane in self.planes if name == role), None)

    @property
    def is_in_rows(self) -> bool:
        """True if the codes of a row of the result are bytes of the tensor in a row."""
        return not self.codes.is_transposed and self.codes.packed != "rows"

    @property
    def scratch_bytes(self) -> int:
        """Bytes for codes that cannot be read into the buffer of the result, and are turned."""
        return 0 if self.is_in_rows else 2 * self.codes.nbytes

    @property
    def companion_bytes(self) -> int:
        """Bytes for all that belongs to the codes of a matrix, read and turned."""
        return sum(plane.nbytes * (1 + plane.is_transposed) for _, plane in self.planes)

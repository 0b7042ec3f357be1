"""Rows of a quantized matrix that are decoded once their codes have been read.

    read --> whole rows, and a part of a row before and after them
         --> reads of codes, and of the tensors that belong to them --> decoder --> result

The codes are read into the end of the buffer of the result if they fit.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from streamconv.checkpoint.decoding import Decoding, Plane
from streamconv.checkpoint.types import Cast, TensorInfo
from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.quantization.decode import RowDecoder
from streamconv.quantization.stored_shape import read_shape
from streamconv.quantization.unpack import LoadedPlane, rows_needed
from streamconv.quantization.workspace import Allocate, Workspace, fresh
from streamconv.sources.base import Read


def rows_of(read: Read, cast: Cast, decoding: Decoding) -> Iterator["PendingRows"]:
    """Cut a read into its whole rows, and the part of a row before and after them."""
    itemsize = itemsize_of(read.info.dtype)
    rows, columns = decoding.shape
    row_bytes = columns * itemsize
    position, end = read.start, read.start + len(read.buffer)
    while position < end:
        number, within = divmod(position, row_bytes)
        matrix, first = divmod(number, rows)
        last = min(rows, first + (end - position) // row_bytes) if not within else first
        stop = (matrix * rows + last) * row_bytes
        part: tuple[int, int] | None = None
        if last == first:
            stop = min((number + 1) * row_bytes, end)
            part, last = (within, stop - number * row_bytes), first + 1
        out = read.buffer[position - read.start : stop - read.start]
        yield PendingRows(read.info, cast, decoding, matrix, range(first, last), out, part)
        position = stop


@dataclass(slots=True)
class PendingRows:
    """Rows of a matrix that are decoded when their codes have been read."""

    info: TensorInfo
    cast: Cast
    decoding: Decoding
    matrix: int
    """Number of the matrix in its tensor."""
    rows: range
    out: memoryview
    """The buffer of the result."""
    part: tuple[int, int] | None
    """Bytes of a single row that are wanted; None for all of them."""
    codes: memoryview | None = None
    others: tuple[tuple[range, memoryview], ...] = ()
    """For each companion, the rows of its tensor and their bytes."""

    @property
    def is_in_place(self) -> bool:
        """True if the codes can be read into the end of the buffer of the result."""
        fits = self.decoding.codes.row_bytes * len(self.rows) <= len(self.out)
        return self.decoding.is_in_rows and self.part is None and fits

    def portions(self, nbytes: int) -> Iterator["PendingRows"]:
        """Cut the rows into portions whose codes take at most `nbytes`, or are a single row."""
        step = max(nbytes // max(self.decoding.codes.row_bytes, 1), 1)
        if self.part is not None:
            yield self
            return
        row_bytes = len(self.out) // len(self.rows)
        for begin in range(0, len(self.rows), step):
            rows = self.rows[begin : begin + step]
            out = self.out[begin * row_bytes : (begin + len(rows)) * row_bytes]
            yield self._with(rows, out)

    def whole_matrix(self) -> "PendingRows":
        """Return all rows of the matrix, without a buffer for a result."""
        return self._with(range(self.decoding.shape[0]), memoryview(b""))

    def _with(self, rows: range, out: memoryview) -> "PendingRows":
        return PendingRows(self.info, self.cast, self.decoding, self.matrix, rows, out, None)

    def stored_reads(self, allocate: Allocate = fresh) -> list[Read]:
        """Return the reads that have to be done before `finish`, into memory of `allocate`."""
        plane = self.decoding.codes
        needed = rows_needed(plane, self.rows)
        nbytes = len(needed) * plane.row_bytes
        if self.is_in_place and self.out:
            self.codes = self.out[len(self.out) - nbytes :]
        else:
            self.codes = allocate(nbytes)
        reads = [self._read(self.cast.stored, plane, needed, self.codes)]
        others = []
        pairs = zip(self.cast.companions, self.decoding.planes, strict=True)
        for info, (role, other) in pairs:
            wanted = rows_needed(other, self.rows)
            if role in ("index", "shape", "second"):
                wanted = range(other.stored[0])
            buffer = allocate(len(wanted) * other.row_bytes)
            reads.append(self._read(info, other, wanted, buffer))
            others.append((wanted, buffer))
        self.others = tuple(others)
        return reads

    def _read(self, info: TensorInfo, plane: Plane, rows: range, buffer: memoryview) -> Read:
        before = self.matrix * plane.nbytes if plane.matrices > 1 else 0
        return Read(info, before + rows.start * plane.row_bytes, buffer)

    def decoder(self, workspace: Workspace, allocate: Allocate = fresh) -> RowDecoder:
        """Return the decoder of the bytes that were read. Raises BadCheckpoint.

        Args:
            workspace: Memory of the thread.
            allocate: Has the memory for tensors that are transposed.
        """
        assert self.codes is not None
        plane = self.decoding.codes
        first = rows_needed(plane, self.rows).start
        codes = LoadedPlane.of(self.cast.stored.name, plane, first, self.codes, allocate)
        others = {}
        planes = zip(self.cast.companions, self.decoding.planes, self.others, strict=True)
        for info, (role, other), (rows, buffer) in planes:
            if role == "shape":
                self._check_shape(info, buffer)
            else:
                others[role] = LoadedPlane.of(info.name, other, rows.start, buffer, allocate)
        return RowDecoder(self.decoding, codes, others, self.info.dtype, workspace)

    def _check_shape(self, info: TensorInfo, raw: memoryview) -> None:
        """Raise BadCheckpoint if a matrix records another shape than the plan has."""
        said = read_shape(info, bytes(raw))
        planned = self.decoding.shape
        if said != planned:
            raise BadCheckpoint(
                f"tensor {quoted(info.name)} says the shape {list(said)}, and "
                f"{quoted(self.cast.stored.name)} {list(self.cast.stored.shape)} was planned as "
                f"{list(planned)}, as others of its shapes are"
            )

    def finish(self, workspace: Workspace) -> None:
        """Fill the buffer of the result."""
        self.fill(self.decoder(workspace))

    def fill(self, decoder: RowDecoder) -> None:
        """Fill the buffer of the result. The decoder has the codes of the rows."""
        if self.part is None:
            decoder.decode(self.rows, self.out)
            return
        begin, end = self.part
        self.out[:] = decoder.row(self.rows.start)[begin:end]


def itemsize_of(dtype: str) -> int:
    """Return the bytes of an element."""
    return DTYPE_BITS[dtype] // 8

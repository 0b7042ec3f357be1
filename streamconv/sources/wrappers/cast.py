"""A source whose tensors are cast or dequantized as they are read, as `TensorInfo.cast` says.

If the result is at least as wide as what is stored, the stored bytes are read into the end of the
result's own buffer, which is then filled from its beginning: a cast from BF16 to F32 reads 2 MB
into the upper half of 4 MB. So it takes no memory of its own, and a batch of reads stays one
batch. If the result is narrower, it is made in portions of `PORTION_BYTES`, in memory of its own.

The same holds for codes whose rows are those of the result. Codes that are spread over their
tensor are read for a whole matrix, which each thread keeps until it reads another one.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from streamconv.checkpoint.casting import PORTION_BYTES
from streamconv.checkpoint.decoding import Decoding, Plane
from streamconv.checkpoint.types import Cast, TensorInfo
from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.quantization import dtype_kernels
from streamconv.quantization.decode import RowDecoder
from streamconv.quantization.stored_shape import read_shape
from streamconv.quantization.unpack import Loaded, rows_needed
from streamconv.quantization.workspace import Workspace
from streamconv.sources.base import ByteRange, Read, Source
from streamconv.sources.wrappers.base import SourceWrapper


class CastSource(SourceWrapper):
    """A source that makes the casts of the tensors that it is asked for.

    A read begins and ends between two elements of the result.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._kept = threading.local()

    def read(self, reads: Sequence[Read]) -> None:
        batch: list[Read] = []
        pending: list[_PendingCast | _PendingRows] = []
        for read in reads:
            cast = read.info.cast
            if cast is None:
                batch.append(read)
            elif cast.decoding is not None:
                for rows in _rows_of(read, cast, cast.decoding):
                    if rows.is_in_place:
                        pending.append(rows)
                        batch += rows.stored_reads()
                    elif cast.decoding.is_in_rows:
                        self._read_rows(rows)
                    else:
                        self._decode_kept(rows)
            elif _itemsize(cast.stored.dtype) <= _itemsize(read.info.dtype):
                pending.append(_PendingCast.of(read, cast, read.buffer))
                batch += pending[-1].stored_reads()
            else:
                self._read_in_portions(read, cast)
        self._source.read(batch)
        for each in pending:
            each.finish(self._workspace)

    def expect(self, ranges: Sequence[ByteRange]) -> None:
        super().expect([stored for each in ranges for stored in _stored_ranges(each)])

    @property
    def _workspace(self) -> Workspace:
        """The memory of this thread for numbers on their way."""
        kept = self._kept.__dict__
        if "workspace" not in kept:
            kept["workspace"] = Workspace()
        workspace: Workspace = kept["workspace"]
        return workspace

    def _read_in_portions(self, read: Read, cast: Cast) -> None:
        """Fill the buffer of a read whose result is narrower than what is stored."""
        itemsize, stored_itemsize = _itemsize(read.info.dtype), _itemsize(cast.stored.dtype)
        stored_bytes = len(read.buffer) // itemsize * stored_itemsize
        room = memoryview(bytearray(min(PORTION_BYTES, stored_bytes)))
        portion = len(room) // stored_itemsize * itemsize
        for begin in range(0, len(read.buffer), max(portion, 1)):
            out = read.buffer[begin : begin + portion]
            pending = _PendingCast.of(Read(read.info, read.start + begin, out), cast, room)
            self._source.read(pending.stored_reads())
            pending.finish(self._workspace)

    def _read_rows(self, rows: "_PendingRows") -> None:
        """Read and decode rows whose codes do not fit into the buffer of the result."""
        for portion in rows.portions(PORTION_BYTES):
            self._source.read(portion.stored_reads())
            portion.finish(self._workspace)

    def _decode_kept(self, rows: "_PendingRows") -> None:
        """Decode rows of a matrix that is kept whole in memory; read it first if necessary."""
        key = rows.info, rows.matrix
        if getattr(self._kept, "key", None) != key:
            self._kept.key = self._kept.decoder = None
            whole = rows.whole_matrix()
            self._source.read(whole.stored_reads())
            self._kept.decoder = whole.decoder(self._workspace)
            self._kept.key = key
        rows.fill(self._kept.decoder)


def _stored_ranges(wanted: ByteRange) -> Iterator[ByteRange]:
    """Yield what is read for bytes of a tensor: a little more than that of its codes."""
    cast = wanted.info.cast
    if cast is None:
        yield wanted
        return
    for info in cast.companions:
        yield ByteRange(info, 0, info.nbytes)
    share = [n * cast.stored.nbytes // wanted.info.nbytes for n in (wanted.begin, wanted.end)]
    yield ByteRange(cast.stored, *share)


@dataclass(frozen=True, slots=True)
class _PendingCast:
    """A read of a cast tensor, with the memory that the stored bytes for it are read into."""

    read: Read
    stored: Read
    """The stored elements."""

    @classmethod
    def of(cls, read: Read, cast: Cast, room: memoryview) -> "_PendingCast":
        """Return the pending cast whose stored elements are read into the end of `room`."""
        itemsize, stored_itemsize = _itemsize(read.info.dtype), _itemsize(cast.stored.dtype)
        first, count = read.start // itemsize, len(read.buffer) // itemsize
        into = room[len(room) - count * stored_itemsize :]
        return cls(read, Read(cast.stored, first * stored_itemsize, into))

    def stored_reads(self) -> list[Read]:
        """Return the reads of stored tensors that have to be done before `finish`."""
        return [self.stored]

    def finish(self, _workspace: Workspace) -> None:
        """Fill the buffer of the read from the stored bytes."""
        dtype = self.stored.info.dtype
        dtype_kernels.cast(self.stored.buffer, dtype, self.read.buffer, self.read.info.dtype)


def _rows_of(read: Read, cast: Cast, decoding: Decoding) -> Iterator["_PendingRows"]:
    """Cut a read into rows: those that are whole, and a part of a row before and after them."""
    itemsize = _itemsize(read.info.dtype)
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
        yield _PendingRows(read.info, cast, decoding, matrix, range(first, last), out, part)
        position = stop


@dataclass(slots=True)
class _PendingRows:
    """Rows of a matrix that are decoded when their codes have been read."""

    info: TensorInfo
    cast: Cast
    decoding: Decoding
    matrix: int
    rows: range
    out: memoryview
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

    def portions(self, nbytes: int) -> Iterator["_PendingRows"]:
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

    def whole_matrix(self) -> "_PendingRows":
        """Return all rows of the matrix, without a buffer for a result."""
        return self._with(range(self.decoding.shape[0]), memoryview(b""))

    def _with(self, rows: range, out: memoryview) -> "_PendingRows":
        return _PendingRows(self.info, self.cast, self.decoding, self.matrix, rows, out, None)

    def stored_reads(self) -> list[Read]:
        """Return the reads that have to be done before `finish`."""
        plane = self.decoding.codes
        needed = rows_needed(plane, self.rows)
        nbytes = len(needed) * plane.row_bytes
        if self.is_in_place and self.out:
            self.codes = self.out[len(self.out) - nbytes :]
        else:
            self.codes = memoryview(bytearray(nbytes))
        reads = [self._read(self.cast.stored, plane, needed, self.codes)]
        others = []
        pairs = zip(self.cast.companions, self.decoding.planes, strict=True)
        for info, (role, other) in pairs:
            wanted = rows_needed(other, self.rows)
            if role in ("index", "shape", "second"):
                wanted = range(other.stored[0])
            buffer = memoryview(bytearray(len(wanted) * other.row_bytes))
            reads.append(self._read(info, other, wanted, buffer))
            others.append((wanted, buffer))
        self.others = tuple(others)
        return reads

    def _read(self, info: TensorInfo, plane: Plane, rows: range, buffer: memoryview) -> Read:
        before = self.matrix * plane.nbytes if plane.matrices > 1 else 0
        return Read(info, before + rows.start * plane.row_bytes, buffer)

    def decoder(self, workspace: Workspace) -> RowDecoder:
        """Return the decoder of what was read. Raises BadCheckpoint."""
        assert self.codes is not None
        plane = self.decoding.codes
        first = rows_needed(plane, self.rows).start
        codes = Loaded.of(self.cast.stored.name, plane, first, self.codes)
        others = {}
        planes = zip(self.cast.companions, self.decoding.planes, self.others, strict=True)
        for info, (role, other), (rows, buffer) in planes:
            if role == "shape":
                self._check_shape(info, buffer)
            else:
                others[role] = Loaded.of(info.name, other, rows.start, buffer)
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
        """Fill the buffer of the result by a decoder that has the rows."""
        if self.part is None:
            decoder.decode(self.rows, self.out)
            return
        begin, end = self.part
        row = memoryview(bytearray(self.decoding.shape[1] * _itemsize(self.info.dtype)))
        decoder.decode(self.rows, row)
        self.out[:] = row[begin:end]


def _itemsize(dtype: str) -> int:
    """Return the bytes of an element."""
    return DTYPE_BITS[dtype] // 8

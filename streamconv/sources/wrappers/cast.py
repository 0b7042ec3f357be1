"""A source whose tensors are cast or dequantized as they are read, as `TensorInfo.cast` says.

If the result is at least as wide as the stored elements, these are read into the end of the
result's own buffer, which is then filled from its beginning: a cast from BF16 to F32 reads 2 MB
into the upper half of 4 MB. So it takes no memory of its own, and a batch of reads stays one
batch. If the result is narrower, it is made in portions of `PORTION_BYTES`, in memory of its own.

Dequantized weights are read in the same way if their codes are stored row by row
(`pending_rows.py`). Otherwise the codes of a whole matrix are read, and each thread keeps them
until it reads another matrix, into the same memory: fresh pages would take a quarter of the time.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from streamconv.checkpoint.cast_memory import PORTION_BYTES
from streamconv.checkpoint.types import Cast
from streamconv.quantization import dtype_kernels
from streamconv.quantization.workspace import Workspace
from streamconv.sources.base import ByteRange, Read, Source
from streamconv.sources.wrappers.base import SourceWrapper
from streamconv.sources.wrappers.pending_rows import PendingRows, itemsize_of, rows_of


class CastSource(SourceWrapper):
    """A source that makes the casts of the tensors that it is asked for.

    A read begins and ends between two elements of the result.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._kept = threading.local()

    def read(self, reads: Sequence[Read]) -> None:
        batch: list[Read] = []
        pending: list[_PendingCast | PendingRows] = []
        for read in reads:
            cast = read.info.cast
            if cast is None:
                batch.append(read)
            elif cast.decoding is not None:
                for rows in rows_of(read, cast, cast.decoding):
                    if rows.is_in_place:
                        pending.append(rows)
                        batch += rows.stored_reads()
                    elif cast.decoding.is_in_rows:
                        self._read_rows(rows)
                    else:
                        self._decode_kept(rows)
            elif itemsize_of(cast.stored.dtype) <= itemsize_of(read.info.dtype):
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
        """The memory of this thread for intermediate results."""
        kept = self._kept.__dict__
        if "workspace" not in kept:
            kept["workspace"] = Workspace()
        workspace: Workspace = kept["workspace"]
        return workspace

    def _read_in_portions(self, read: Read, cast: Cast) -> None:
        """Fill the buffer of a read whose result is narrower than what is stored."""
        itemsize, stored_itemsize = itemsize_of(read.info.dtype), itemsize_of(cast.stored.dtype)
        stored_bytes = len(read.buffer) // itemsize * stored_itemsize
        room = memoryview(bytearray(min(PORTION_BYTES, stored_bytes)))
        portion = len(room) // stored_itemsize * itemsize
        for begin in range(0, len(read.buffer), max(portion, 1)):
            out = read.buffer[begin : begin + portion]
            pending = _PendingCast.of(Read(read.info, read.start + begin, out), cast, room)
            self._source.read(pending.stored_reads())
            pending.finish(self._workspace)

    def _read_rows(self, rows: PendingRows) -> None:
        """Read and decode rows whose codes do not fit into the buffer of the result."""
        for portion in rows.portions(PORTION_BYTES):
            self._source.read(portion.stored_reads())
            portion.finish(self._workspace)

    def _decode_kept(self, rows: PendingRows) -> None:
        """Decode rows of a matrix that is kept whole in memory; read it first if necessary."""
        key = rows.info, rows.matrix
        if getattr(self._kept, "key", None) != key:
            self._kept.key = self._kept.decoder = None
            decoding, workspace = rows.decoding, self._workspace
            nbytes = decoding.scratch_bytes + decoding.companion_bytes
            allocate = workspace.parts("matrix", nbytes, 2 * len(decoding.planes) + 2)
            whole = rows.whole_matrix()
            self._source.read(whole.stored_reads(allocate))
            self._kept.decoder = whole.decoder(workspace, allocate)
            self._kept.key = key
        rows.fill(self._kept.decoder)


def _stored_ranges(wanted: ByteRange) -> Iterator[ByteRange]:
    """Yield the stored bytes that are read for bytes of a tensor.

    They are a proportional part of its codes, and all tensors that belong to the codes.
    """
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
        """Return the pending cast that reads its stored elements into the end of `room`."""
        itemsize, stored_itemsize = itemsize_of(read.info.dtype), itemsize_of(cast.stored.dtype)
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

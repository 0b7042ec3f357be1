"""A source whose tensors are cast as they are read, as `TensorInfo.cast` says.

If the result is at least as wide as what is stored, the stored bytes are read into the end of the
result's own buffer, which is then filled from its beginning: a cast from BF16 to F32 reads 2 MB
into the upper half of 4 MB. So it takes no memory of its own, and a batch of reads stays one
batch. If the result is narrower, it is made in portions of `PORTION_BYTES`, in memory of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from streamconv.checkpoint.casting import PORTION_BYTES
from streamconv.checkpoint.types import Cast
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.sources.base import Read
from streamconv.sources.wrappers import dtype_kernels
from streamconv.sources.wrappers.base import SourceWrapper


class CastSource(SourceWrapper):
    """A source that makes the casts of the tensors that it is asked for.

    A read begins and ends between two elements of the result.
    """

    def read(self, reads: Sequence[Read]) -> None:
        batch: list[Read] = []
        pending: list[_PendingCast] = []
        for read in reads:
            if read.info.cast is None:
                batch.append(read)
            elif _itemsize(read.info.cast.stored.dtype) <= _itemsize(read.info.dtype):
                pending.append(_PendingCast.of(read, read.info.cast, read.buffer))
                batch += pending[-1].stored_reads()
            else:
                self._read_in_portions(read, read.info.cast)
        self._source.read(batch)
        for each in pending:
            each.finish()

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
            pending.finish()


@dataclass(frozen=True, slots=True)
class _PendingCast:
    """A read of a cast tensor, with the memory that the stored bytes for it are read into."""

    read: Read
    cast: Cast
    first: int
    """Number of its first element in the tensor."""
    stored: memoryview
    """The stored elements."""
    grid_rows: range
    """The rows of the grid of scales that it needs; empty without scales."""
    scales: bytearray
    """These rows, as they are stored."""

    @classmethod
    def of(cls, read: Read, cast: Cast, room: memoryview) -> "_PendingCast":
        """Return the pending cast whose stored elements are read into the end of `room`."""
        itemsize = _itemsize(read.info.dtype)
        first, count = read.start // itemsize, len(read.buffer) // itemsize
        stored = room[len(room) - count * _itemsize(cast.stored.dtype) :]
        if cast.scales is None or not count:
            return cls(read, cast, first, stored, range(0), bytearray())
        rows = dtype_kernels.grid_rows(first, count, read.info.shape, cast.block)
        columns = -(-read.info.shape[-1] // cast.block[1])
        scales = bytearray(len(rows) * columns * _itemsize(cast.scales.dtype))
        return cls(read, cast, first, stored, rows, scales)

    def stored_reads(self) -> list[Read]:
        """Return the reads of stored tensors that have to be done before `finish`."""
        start = self.first * _itemsize(self.cast.stored.dtype)
        reads = [Read(self.cast.stored, start, self.stored)]
        if self.cast.scales is not None and self.grid_rows:
            row_bytes = len(self.scales) // len(self.grid_rows)
            start = self.grid_rows.start * row_bytes
            reads.append(Read(self.cast.scales, start, memoryview(self.scales)))
        return reads

    def finish(self) -> None:
        """Fill the buffer of the read from the stored bytes."""
        info, out, stored_dtype = self.read.info, self.read.buffer, self.cast.stored.dtype
        if self.cast.scales is None or not self.grid_rows:
            dtype_kernels.cast(self.stored, stored_dtype, out, info.dtype)
            return
        scales = dtype_kernels.as_float32(self.scales, self.cast.scales.dtype)
        dtype_kernels.dequantize(
            self.stored,
            stored_dtype,
            out,
            info.dtype,
            start=self.first,
            shape=info.shape,
            block=self.cast.block,
            scales=scales.reshape(len(self.grid_rows), -1),
        )


def _itemsize(dtype: str) -> int:
    """Return the bytes of an element."""
    return DTYPE_BITS[dtype] // 8

"""A source whose tensors are cast as they are read, as their `cast` says.

The stored bytes of a read go to the end of the very buffer that the result fills from its
beginning, so that a cast takes no memory of its own where the result is no narrower, and a batch
of reads stays one. What narrows comes portion by portion.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from streamconv.checkpoint.casting import PORTION_BYTES
from streamconv.checkpoint.types import Cast, Checkpoint, OtherFile
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.sources.base import Read, Source
from streamconv.sources.wrappers.dtype_kernels import as_float32, cast, dequantize, grid_rows


class CastSource:
    """`source`, with casts done. A read begins and ends between elements of what it makes."""

    def __init__(self, source: Source) -> None:
        self._source = source

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint as it is stored."""
        return self._source.checkpoint

    def read(self, reads: Sequence[Read]) -> None:
        """See `Source`."""
        batch: list[Read] = []
        making: list[_Making] = []
        for read in reads:
            if read.info.cast is None:
                batch.append(read)
            elif _width(read.info.cast.stored.dtype) <= _width(read.info.dtype):
                making.append(_Making.of(read, read.info.cast, read.buffer))
                batch += making[-1].reads()
            else:
                self._read_portions(read, read.info.cast)
        self._source.read(batch)
        for made in making:
            made.finish()

    def _read_portions(self, read: Read, how: Cast) -> None:
        """A read that becomes narrower, by way of a portion's own memory."""
        width, stored = _width(read.info.dtype), _width(how.stored.dtype)
        room = memoryview(bytearray(min(PORTION_BYTES, len(read.buffer) // width * stored)))
        portion = len(room) // stored * width
        for begin in range(0, len(read.buffer), max(portion, 1)):
            out = read.buffer[begin : begin + portion]
            made = _Making.of(Read(read.info, read.start + begin, out), how, room)
            self._source.read(made.reads())
            made.finish()

    def read_other(self, other: OtherFile, buffer: memoryview, start: int) -> int:
        """See `Source`."""
        return self._source.read_other(other, buffer, start)

    def check_unchanged(self) -> None:
        """See `Source`."""
        self._source.check_unchanged()

    def close(self) -> None:
        """See `Source`."""
        self._source.close()


@dataclass(frozen=True, slots=True)
class _Making:
    """A read under way: what has been stored for it, and the rows of scales that it takes."""

    read: Read
    how: Cast
    first: int
    """Number of its first element."""
    raw: memoryview
    rows: range
    grid: bytearray

    @classmethod
    def of(cls, read: Read, how: Cast, room: memoryview) -> "_Making":
        """The read whose stored bytes go to the end of `room`."""
        count = len(read.buffer) // _width(read.info.dtype)
        first = read.start // _width(read.info.dtype)
        raw = room[len(room) - count * _width(how.stored.dtype) :]
        if how.scales is None or not count:
            return cls(read, how, first, raw, range(0), bytearray())
        rows = grid_rows(first, count, read.info.shape, how.block)
        grid = bytearray(len(rows) * _columns(read, how) * _width(how.scales.dtype))
        return cls(read, how, first, raw, rows, grid)

    def reads(self) -> list[Read]:
        """What is to be read for it."""
        reads = [Read(self.how.stored, self.first * _width(self.how.stored.dtype), self.raw)]
        if self.how.scales is not None and self.rows:
            offset = self.rows.start * (len(self.grid) // len(self.rows))
            reads.append(Read(self.how.scales, offset, memoryview(self.grid)))
        return reads

    def finish(self) -> None:
        """Make the result of what has been read."""
        info, out, stored = self.read.info, self.read.buffer, self.how.stored.dtype
        if self.how.scales is None or not self.rows:
            cast(self.raw, stored, out, info.dtype)
            return
        scales = as_float32(self.grid, self.how.scales.dtype)
        dequantize(
            self.raw,
            stored,
            out,
            info.dtype,
            start=self.first,
            shape=info.shape,
            block=self.how.block,
            scales=scales.reshape(len(self.rows), -1),
        )


def _width(dtype: str) -> int:
    """Bytes of an element."""
    return DTYPE_BITS[dtype] // 8


def _columns(read: Read, how: Cast) -> int:
    """Scales in a row of blocks."""
    return -(-read.info.shape[-1] // how.block[1])

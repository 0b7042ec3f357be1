"""A source whose weights are quantized as they are read, as `TensorInfo.cast` says.

    weight [o, i] --> band of whole blocks of rows --> codes of the band, and its scales

A band is read and encoded once. Each thread keeps the codes of its last one, because the reads of a
tensor follow each other. The scales are kept until they are read, as far as there is room, because
they follow their codes. If they are not there, they are made of the weight again.

A weight that is a part of a tensor, in whatever order, is read with all that lies in between, and
each thread keeps what it has read of a tensor last: gate and up of an expert lie side by side.
"""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streamconv.checkpoint.encoding import KEPT_SCALES_BYTES, Encoding, View
from streamconv.checkpoint.types import Cast, TensorInfo
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.quantization import dtype_kernels
from streamconv.quantization.encode import RowEncoder, elements_of
from streamconv.quantization.workspace import Workspace
from streamconv.sources.base import ByteRange, Read, Source
from streamconv.sources.wrappers.base import SourceWrapper

Array = npt.NDArray[Any]


class QuantizedSource(SourceWrapper):
    """A source that quantizes the tensors that it is asked for."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._threads = threading.local()
        self._scales = _KeptScales(KEPT_SCALES_BYTES)

    def read(self, reads: Sequence[Read]) -> None:
        batch: list[Read] = []
        for read in reads:
            cast = read.info.cast
            if cast is None or (cast.encoding is None and cast.view is None):
                batch.append(read)
            elif cast.encoding is None:
                elements = self._kept.part(cast, read.info.shape)
                read.buffer[:] = elements[read.start : read.start + len(read.buffer)]
            elif cast.encoding.role == "shape":
                raw = np.array(cast.encoding.shape, np.int64).tobytes()
                read.buffer[:] = raw[read.start : read.start + len(read.buffer)]
            elif cast.encoding.role == "codes":
                self._read_codes(read, cast, cast.encoding)
            else:
                self._read_scales(read, cast, cast.encoding)
        self._source.read(batch)

    def expect(self, ranges: Sequence[ByteRange]) -> None:
        super().expect([stored for each in ranges for stored in _stored_ranges(each)])

    @property
    def _kept(self) -> "_ThreadMemory":
        kept: _ThreadMemory | None = getattr(self._threads, "kept", None)
        if kept is None:
            kept = self._threads.kept = _ThreadMemory(self._source)
        return kept

    def _read_codes(self, read: Read, cast: Cast, encoding: Encoding) -> None:
        """Fill the buffer of a read from the bands that have its bytes."""
        row_bytes = read.info.nbytes // encoding.shape[0]
        band_bytes = encoding.band_rows * row_bytes
        position, end = read.start, read.start + len(read.buffer)
        while position < end:
            number, within = divmod(position, band_bytes)
            codes = self._band(read.info.name, cast, encoding, number)
            taken = min(end - position, len(codes) - within)
            begin = position - read.start
            read.buffer[begin : begin + taken] = codes[within : within + taken]
            position += taken

    def _band(self, name: str, cast: Cast, encoding: Encoding, number: int) -> memoryview:
        """Return the codes of a band, and keep its scales."""
        kept = self._kept
        key = name, cast.stored.name, number
        if kept.codes_of != key:
            kept.codes_of = None
            encoder, rows = kept.encoder(encoding), _rows_of(encoding, number)
            elements = kept.rows(cast, encoding, rows)
            scales = encoder.scales(elements, cast.stored.name, rows.start)
            kept.codes = encoder.codes(elements, scales).reshape(-1).data.cast("B")
            self._scales.put(_weight(cast), number, scales)
            kept.codes_of = key
        return kept.codes

    def _read_scales(self, read: Read, cast: Cast, encoding: Encoding) -> None:
        """Fill the buffer of a read with scales that are kept, or made of the weight again."""
        encoder = self._kept.encoder(encoding)
        row_bytes = read.info.nbytes // _scale_rows(encoding)
        band_bytes = -(-encoding.band_rows // encoding.block[0]) * row_bytes
        position, end = read.start, read.start + len(read.buffer)
        while position < end:
            number, within = divmod(position, band_bytes)
            scales = self._scales.get(_weight(cast), number)
            if scales is None:
                rows = _rows_of(encoding, number)
                elements = self._kept.rows(cast, encoding, rows)
                scales = encoder.scales(elements, cast.stored.name, rows.start)
            raw = encoder.stored_scales(scales, read.info.dtype).reshape(-1).data.cast("B")
            taken = min(end - position, len(raw) - within)
            begin = position - read.start
            read.buffer[begin : begin + taken] = raw[within : within + taken]
            position += taken
        if end == read.info.nbytes:
            self._scales.drop(_weight(cast))


def _stored_ranges(wanted: ByteRange) -> Iterator[ByteRange]:
    """Yield what is read for bytes of a tensor; nothing for scales, which follow their codes."""
    cast = wanted.info.cast
    if cast is None or (cast.encoding is None and cast.view is None):
        yield wanted
        return
    shape = cast.encoding.shape if cast.encoding else wanted.info.shape
    width = DTYPE_BITS[cast.stored.dtype] // 8
    if cast.encoding is not None and cast.encoding.role != "codes":
        return
    begin, end = cast.view.span(shape) if cast.view else (0, cast.stored.elements)
    if cast.view is None or cast.view.is_contiguous(shape):
        nbytes = wanted.info.nbytes
        begin, end = (
            begin + (end - begin) * wanted.begin // nbytes,
            begin + (end - begin) * wanted.end // nbytes,
        )
    yield ByteRange(cast.stored, begin * width, end * width)


_Weight = tuple[str, View | None]
"""A stored tensor, and the part of it."""


def _weight(cast: Cast) -> _Weight:
    return cast.stored.name, cast.view


def _rows_of(encoding: Encoding, number: int) -> range:
    """Return the rows of a band."""
    return range(encoding.shape[0])[number * encoding.band_rows :][: encoding.band_rows]


def _scale_rows(encoding: Encoding) -> int:
    return -(-encoding.shape[0] // encoding.block[0])


class _KeptScales:
    """Scales of bands whose codes are made, until they are read. Shared by all threads."""

    def __init__(self, allowed: int) -> None:
        self._allowed = allowed
        self._held = 0
        self._bands: dict[_Weight, dict[int, Array]] = {}
        self._lock = threading.Lock()

    def put(self, weight: _Weight, number: int, scales: Array) -> None:
        """Keep the scales of a band, and drop the oldest weights if there is no room."""
        with self._lock:
            bands = self._bands.setdefault(weight, {})
            if number not in bands:
                bands[number] = scales
                self._held += scales.nbytes
            while self._held > self._allowed:
                self._drop(next(iter(self._bands)))

    def get(self, weight: _Weight, number: int) -> Array | None:
        """Return the scales of a band, or None."""
        with self._lock:
            return self._bands.get(weight, {}).get(number)

    def drop(self, weight: _Weight) -> None:
        """Forget the scales of a weight."""
        with self._lock:
            self._drop(weight)

    def _drop(self, weight: _Weight) -> None:
        self._held -= sum(scales.nbytes for scales in self._bands.pop(weight, {}).values())


class _ThreadMemory:
    """What a thread has read or made last."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._encoders: dict[Encoding, RowEncoder] = {}
        # one for all kinds of weights: the plan counts the memory of the widest kind alone
        self._workspace = Workspace()
        self._room = memoryview(bytearray())
        self._span_of: object = None
        self._span: Array = np.empty(0, np.uint8)
        self.codes_of: object = None
        """Names of the codes and their weight, and number of the band."""
        self.codes = memoryview(b"")

    def encoder(self, encoding: Encoding) -> RowEncoder:
        """Return the encoder of a kind of weights."""
        if encoding not in self._encoders:
            self._encoders[encoding] = RowEncoder(encoding, self._workspace)
        return self._encoders[encoding]

    def rows(self, cast: Cast, encoding: Encoding, rows: range) -> Array:
        """Return the bits of rows of a weight, `[rows, columns]`."""
        columns = encoding.shape[1]
        view = cast.view
        stored = cast.stored
        if view is None or view.is_contiguous(encoding.shape):
            start = (view.start if view else 0) + rows.start * columns
            raw = self._read(stored, start, len(rows) * columns)
            return elements_of(_as(raw, stored.dtype, encoding.stored), encoding.stored, columns)
        whole = self._strided(cast, encoding.shape)
        part = np.ascontiguousarray(whole[rows.start : rows.stop])
        raw = part.data.cast("B")
        return elements_of(_as(raw, stored.dtype, encoding.stored), encoding.stored, columns)

    def part(self, cast: Cast, shape: tuple[int, ...]) -> memoryview:
        """Return all bytes of a part of a tensor, in the order of its dimensions."""
        whole = np.ascontiguousarray(self._strided(cast, shape))
        return whole.data.cast("B")

    def _strided(self, cast: Cast, shape: tuple[int, ...]) -> Array:
        """Return a part of a tensor as a strided array, over bytes that are read if need be."""
        view, stored = cast.view, cast.stored
        assert view is not None
        begin, end = view.span(shape)
        key = stored.name, begin, end
        width = DTYPE_BITS[stored.dtype] // 8
        if self._span_of != key:
            self._span_of, self._span = None, np.empty(0, np.uint8)
            memory: Array = np.empty((end - begin) * width, np.uint8)
            self._source.read([Read(stored, begin * width, memory.data)])
            self._span, self._span_of = memory, key
        words = self._span.view(np.dtype(f"u{width}"))[view.start - begin :]
        strides = [stride * width for stride in view.strides]
        return np.lib.stride_tricks.as_strided(words, shape, strides, writeable=False)

    def _read(self, info: TensorInfo, start: int, count: int) -> memoryview:
        """Read elements of a tensor into memory that is used again."""
        width = DTYPE_BITS[info.dtype] // 8
        if len(self._room) < count * width:
            self._room = memoryview(bytearray(count * width))
        raw = self._room[: count * width]
        self._source.read([Read(info, start * width, raw)])
        return raw


def _as(raw: memoryview, dtype: str, wanted: str) -> memoryview:
    """Return elements in the dtype that is encoded: F64 becomes F32."""
    if dtype == wanted:
        return raw
    out = memoryview(bytearray(len(raw) * DTYPE_BITS[wanted] // DTYPE_BITS[dtype]))
    dtype_kernels.cast(raw, dtype, out, wanted)
    return out

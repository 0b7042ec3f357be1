"""A source whose weights are quantized as they are read, as `TensorInfo.cast` says.

    weight [o, i] --> band of whole blocks of rows --> codes of the band, and its scales

A band is read and encoded once. Each thread keeps the codes of its last band, because the reads of
a tensor follow each other. The scales of a band are read before its codes or after them, so they
are kept until then, as far as there is room (`kept_scales.py`). Otherwise they are made from the
weight again. Codes never drop them: several threads may make codes of one band, before its scales
are read.

A weight that is a strided part of a tensor is read together with all bytes in between. Each thread
keeps the bytes that it has read last: gate and up of an expert are often in the same ones.
"""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streamconv.checkpoint.encoding import KEPT_SCALES_BYTES, Encoding
from streamconv.checkpoint.types import Cast, TensorInfo
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.quantization import dtype_kernels
from streamconv.quantization.encode import RowEncoder, elements_of
from streamconv.quantization.workspace import Workspace
from streamconv.sources.base import ByteRange, Read, Source
from streamconv.sources.wrappers.base import SourceWrapper
from streamconv.sources.wrappers.kept_scales import KeptScales, Weight

Array = npt.NDArray[Any]


class QuantizedSource(SourceWrapper):
    """A source that quantizes the tensors that it is asked for."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._threads = threading.local()
        self._scales = KeptScales(KEPT_SCALES_BYTES)

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
            weight = _weight(cast)
            scales = self._scales.get(weight, number)
            if scales is None:
                scales = encoder.scales(elements, cast.stored.name, rows.start)
                self._scales.put(weight, number, scales)
            kept.codes = encoder.codes(elements, scales).reshape(-1).data.cast("B")
            kept.codes_of = key
        return kept.codes

    def _read_scales(self, read: Read, cast: Cast, encoding: Encoding) -> None:
        """Fill the buffer of a read with scales, which are kept or made from the weight again."""
        encoder = self._kept.encoder(encoding)
        row_bytes = read.info.nbytes // _scale_rows(encoding)
        band_bytes = -(-encoding.band_rows // encoding.block[0]) * row_bytes
        position, end = read.start, read.start + len(read.buffer)
        weight, have_codes = _weight(cast), True
        while position < end:
            number, within = divmod(position, band_bytes)
            scales = self._scales.get(weight, number)
            if scales is None:
                have_codes = False
                rows = _rows_of(encoding, number)
                elements = self._kept.rows(cast, encoding, rows)
                scales = encoder.scales(elements, cast.stored.name, rows.start)
                self._scales.put(weight, number, scales)
            raw = encoder.stored_scales(scales, read.info.dtype).reshape(-1).data.cast("B")
            taken = min(end - position, len(raw) - within)
            begin = position - read.start
            read.buffer[begin : begin + taken] = raw[within : within + taken]
            position += taken
        if have_codes and end == read.info.nbytes:
            self._scales.drop(weight)


def _stored_ranges(wanted: ByteRange) -> Iterator[ByteRange]:
    """Yield the stored bytes that are read for bytes of a tensor.

    None are read for scales, which are made together with the codes.
    """
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


def _weight(cast: Cast) -> Weight:
    return cast.stored.name, cast.view


def _rows_of(encoding: Encoding, number: int) -> range:
    """Return the rows of a band."""
    return range(encoding.shape[0])[number * encoding.band_rows :][: encoding.band_rows]


def _scale_rows(encoding: Encoding) -> int:
    return -(-encoding.shape[0] // encoding.block[0])


class _ThreadMemory:
    """What a thread keeps: the bytes that it has read last, and the codes that it has made last."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._encoders: dict[Encoding, RowEncoder] = {}
        # one for all kinds of weights: the plan counts the memory of the widest kind alone
        self._workspace = Workspace()
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
        else:
            whole = self._strided(cast, encoding.shape)[rows.start : rows.stop]
            part = self._workspace.array("rows", whole.size, whole.dtype).reshape(whole.shape)
            np.copyto(part, whole)
            raw = part.data.cast("B")
        return elements_of(_as_dtype(raw, stored.dtype, encoding.stored), encoding.stored, columns)

    def part(self, cast: Cast, shape: tuple[int, ...]) -> memoryview:
        """Return all bytes of a part of a tensor, in the order of its dimensions."""
        whole = np.ascontiguousarray(self._strided(cast, shape))
        return whole.data.cast("B")

    def _strided(self, cast: Cast, shape: tuple[int, ...]) -> Array:
        """Return a part of a tensor as a strided array. Its bytes are read unless they are kept."""
        view, stored = cast.view, cast.stored
        assert view is not None
        begin, end = view.span(shape)
        key = stored.name, begin, end
        width = DTYPE_BITS[stored.dtype] // 8
        if self._span_of != key:
            self._span_of, self._span = None, np.empty(0, np.uint8)
            memory = self._workspace.array("span", (end - begin) * width, np.uint8)
            self._source.read([Read(stored, begin * width, memory.data)])
            self._span, self._span_of = memory, key
        words = self._span.view(np.dtype(f"u{width}"))[view.start - begin :]
        strides = [stride * width for stride in view.strides]
        return np.lib.stride_tricks.as_strided(words, shape, strides, writeable=False)

    def _read(self, info: TensorInfo, start: int, count: int) -> memoryview:
        """Read elements of a tensor into memory that is used again."""
        width = DTYPE_BITS[info.dtype] // 8
        raw = self._workspace.array("rows", count * width, np.uint8).data
        self._source.read([Read(info, start * width, raw)])
        return raw


def _as_dtype(raw: memoryview, dtype: str, wanted: str) -> memoryview:
    """Return elements cast to `wanted`, the dtype that is encoded: F64 becomes F32."""
    if dtype == wanted:
        return raw
    out = memoryview(bytearray(len(raw) * DTYPE_BITS[wanted] // DTYPE_BITS[dtype]))
    dtype_kernels.cast(raw, dtype, out, wanted)
    return out

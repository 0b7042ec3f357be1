"""Weights that are quantized as they are read: any bytes of them, from any place, in any order."""

import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import quantizers
import torch
from memory_source import MemorySource

from streamconv.catalog.encodings import encoding_row
from streamconv.checkpoint.cast_memory import buffer_bytes
from streamconv.checkpoint.encoding import View
from streamconv.checkpoint.types import Cast, TensorInfo
from streamconv.errors import BadCheckpoint
from streamconv.quantization.encode import Array, RowEncoder
from streamconv.quantization.encoded_parts import encoded_parts
from streamconv.sources.base import ByteRange, Read, Source
from streamconv.sources.wrappers.base import SourceWrapper
from streamconv.sources.wrappers.quantize import QuantizedSource
from streamconv.verification.quantize import QuantizedAgain

KINDS = list(quantizers.QUANTIZERS)
READERS: dict[str, Callable[[Source], SourceWrapper]] = {
    "conversion": QuantizedSource,
    "verification": QuantizedAgain,
}


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> Callable[[Source], SourceWrapper]:
    """What converts, and what computes the same again to verify it."""
    return READERS[request.param]


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def memory(**tensors: torch.Tensor) -> MemorySource:
    return MemorySource({name: ("BF16", tuple(t.shape), raw(t)) for name, t in tensors.items()})


def parts_of(info: TensorInfo, kind: str) -> tuple[TensorInfo, ...]:
    name, _, scale = kind.partition(" ")
    return encoded_parts(info, encoding_row(name, scale or None), scale or None)


def wanted(weight: torch.Tensor, kind: str) -> list[bytes]:
    parts = quantizers.QUANTIZERS[kind](weight)
    return [raw(quantizers.codes_of(parts)), raw(quantizers.scales_of(parts))]


def read_part(reader: SourceWrapper, info: TensorInfo, step: int) -> bytes:
    """The bytes of a tensor, some at a time."""
    buffer = memoryview(bytearray(info.nbytes))
    for begin in range(0, info.nbytes, step):
        reader.read([Read(info, begin, buffer[begin : begin + step])])
    return bytes(buffer)


@pytest.mark.parametrize("kind", KINDS)
def test_any_bytes(
    reader: Callable[[Source], SourceWrapper], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several bands, in reads that end anywhere, codes first or scales first."""
    monkeypatch.setattr("streamconv.checkpoint.encoding.BAND_ELEMENTS", 20_000)
    monkeypatch.setattr("streamconv.verification.quantize.AGAIN_ELEMENTS", 20_000)
    monkeypatch.setattr("streamconv.verification.quantize.AGAIN_TILE", 3_000)
    torch.manual_seed(1)
    weight = torch.randn(300, 96).bfloat16()
    source = memory(**{"a.weight": weight})
    parts = parts_of(source.checkpoint.tensors["a.weight"], kind)[:2]
    codes, scales = wanted(weight, kind)
    for step in (7, 10_001, 10**6):
        assert read_part(reader(source), parts[0], step) == codes
        assert read_part(reader(source), parts[1], step) == scales
        both = reader(source)
        assert [read_part(both, part, step) for part in parts] == [codes, scales]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["codes first", "scales first"])
def test_scales_are_made_once(order: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """For each band of one weight and of the next, whichever tensor of it is read first."""
    monkeypatch.setattr("streamconv.checkpoint.encoding.BAND_ELEMENTS", 20_000)
    torch.manual_seed(3)
    weights = {f"{name}.weight": torch.randn(600, 96).bfloat16() for name in "ab"}
    source = memory(**weights)
    made: list[tuple[str, int]] = []
    scales = RowEncoder.scales

    def noting(self: RowEncoder, elements: Array, name: str, first: int = 0) -> Array:
        made.append((name, first))
        return scales(self, elements, name, first)

    monkeypatch.setattr(RowEncoder, "scales", noting)
    reader = QuantizedSource(source)
    for name, weight in weights.items():
        parts = parts_of(source.checkpoint.tensors[name], "fp8-block")[:2]
        found = {place: read_part(reader, parts[place], 5_000) for place in order}
        assert [found[0], found[1]] == wanted(weight, "fp8-block")
    assert made == [(name, first) for name in weights for first in range(0, 600, 128)]


def test_two_threads_share_the_last_band(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each makes codes of it. The scales are made once, and are kept until they are read."""
    monkeypatch.setattr("streamconv.checkpoint.encoding.BAND_ELEMENTS", 20_000)
    torch.manual_seed(3)
    weight = torch.randn(600, 96).bfloat16()
    source = memory(**{"a.weight": weight})
    codes, scales = parts_of(source.checkpoint.tensors["a.weight"], "fp8-block")[:2]
    made: list[int] = []
    make = RowEncoder.scales

    def noting(self: RowEncoder, elements: Array, name: str, first: int = 0) -> Array:
        made.append(first)
        return make(self, elements, name, first)

    monkeypatch.setattr(RowEncoder, "scales", noting)
    reader, found = QuantizedSource(source), memoryview(bytearray(codes.nbytes))
    cut = 590 * 96
    for part in (slice(0, cut), slice(cut, codes.nbytes)):
        read = Read(codes, part.start, found[part])
        with ThreadPoolExecutor(1) as thread:
            thread.submit(reader.read, [read]).result()
    assert [bytes(found), read_part(reader, scales, 5_000)] == wanted(weight, "fp8-block")
    assert made == [*range(0, 600, 128)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turned", [False, True])
def test_a_weight_inside_of_another_tensor(
    reader: Callable[[Source], SourceWrapper],
    kind: str,
    turned: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gate and up of an expert, one beside the other, with rows or columns first.

    If a row is spread over the file, the weight is read once and not for each of its bands.
    """
    monkeypatch.setattr("streamconv.checkpoint.encoding.BAND_ELEMENTS", 9_000)
    monkeypatch.setattr("streamconv.verification.quantize.AGAIN_ELEMENTS", 9_000)
    monkeypatch.setattr("streamconv.verification.quantize.AGAIN_TILE", 2_000)
    torch.manual_seed(2)
    stored = torch.randn(3, 160, 256).bfloat16()
    source = memory(experts=stored)
    info = source.checkpoint.tensors["experts"]
    made = reader(source)
    for half in range(2):
        if turned:  # [input, gate and up], of the second expert
            weight = stored[1, :, half * 128 :][:, :128].T
            view = View(160 * 256 + half * 128, (1, 256))
        else:  # every other row
            weight = stored[1, half::2]
            view = View(160 * 256 + half * 256, (512, 1))
        shape = tuple(weight.shape)
        cut = info._replace(name=f"{half}.weight", shape=shape, cast=Cast(info, view=view))
        parts = parts_of(cut, kind)[:2]
        assert [read_part(made, part, 5_000) for part in parts] == wanted(weight, kind)
    reads = [each for _, asked in source.calls for each in asked]
    assert len(reads) <= 2 or not turned


def test_a_vector_inside_of_another_tensor(reader: Callable[[Source], SourceWrapper]) -> None:
    """A bias goes along, and is not quantized."""
    stored = torch.randn(3, 64).bfloat16()
    source = memory(biases=stored)
    info = source.checkpoint.tensors["biases"]
    cut = info._replace(shape=(32,), nbytes=64, cast=Cast(info, view=View(65, (2,))))
    assert read_part(reader(source), cut, 22) == raw(stored[1, 1::2])


def test_the_shape_is_a_tensor_too(reader: Callable[[Source], SourceWrapper]) -> None:
    source = memory(**{"a.weight": torch.randn(6, 64).bfloat16()})
    shape = parts_of(source.checkpoint.tensors["a.weight"], "int4-g32")[2]
    assert read_part(reader(source), shape, 5) == raw(torch.tensor([6, 64]))


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_that_of_the_plan(
    reader: Callable[[Source], SourceWrapper], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the widest kind of weights, however many kinds a thread has quantized."""
    in_heap = lambda nbytes: memoryview(bytearray(nbytes))  # noqa: E731 - maps are not traced
    monkeypatch.setattr("streamconv.verification.quantize.new_buffer", in_heap)
    torch.manual_seed(3)
    widths = [*range(1024, 4096, 1024), 20_480]
    weights = {f"{n}.weight": torch.randn(256, n).bfloat16() for n in widths}
    source = memory(**weights)
    parts = [p for i in source.checkpoint.tensors.values() for p in parts_of(i, kind)]
    made, out = reader(source), memoryview(bytearray(2**20))
    read_part(reader(source), parts[0], 2**20)  # tables that are made once
    tracemalloc.start()
    try:
        for part in parts:
            for begin in range(0, part.nbytes, len(out)):
                made.read([Read(part, begin, out[: part.nbytes - begin])])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    counted = buffer_bytes(parts, 1, again=isinstance(made, QuantizedAgain))
    assert peak < counted < 1.5 * peak


def test_a_number_that_is_not_finite_is_named() -> None:
    weight = torch.zeros(300, 64).bfloat16()
    weight[299, 5] = float("nan")
    source = memory(**{"a.weight": weight})
    codes = parts_of(source.checkpoint.tensors["a.weight"], "fp8-block")[0]
    with pytest.raises(BadCheckpoint, match=r"a\.weight.*\[299, 5\] is nan"):
        read_part(QuantizedSource(source), codes, 10_000)


def test_what_is_announced_is_what_is_read() -> None:
    """The stored bytes of codes; scales are made with them."""
    announced: list[ByteRange] = []

    class Listening(MemorySource):
        def expect(self, ranges: list[ByteRange]) -> None:
            announced.extend(ranges)

    source = Listening({"a.weight": ("BF16", (256, 64), bytes(256 * 64 * 2))})
    info = source.checkpoint.tensors["a.weight"]
    codes, scales = parts_of(info, "fp8-channel")
    QuantizedSource(source).expect([ByteRange(codes, 64, 128), ByteRange(scales, 0, scales.nbytes)])
    assert announced == [ByteRange(info, 128, 256)]

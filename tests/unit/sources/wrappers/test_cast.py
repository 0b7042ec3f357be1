"""How a cast reads what is stored; what it computes is shown in `test_dtype_kernels.py`."""

import tracemalloc

import pytest
import quantized
import torch
from memory_source import MemorySource

from streamconv.checkpoint.cast_memory import buffer_bytes
from streamconv.checkpoint.casting import Casting
from streamconv.checkpoint.types import Cast, TensorInfo
from streamconv.quantization.cast_checkpoint import cast_checkpoint
from streamconv.quantization.decode import RowDecoder
from streamconv.sources.base import Read
from streamconv.sources.wrappers.cast import CastSource

TORCH = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
}


def raw(values: torch.Tensor) -> bytes:
    return bytes(values.contiguous().reshape(-1).view(torch.uint8).tolist())


def memory(**tensors: torch.Tensor) -> MemorySource:
    dtypes = {dtype: name for name, dtype in TORCH.items()}
    return MemorySource({n: (dtypes[t.dtype], tuple(t.shape), raw(t)) for n, t in tensors.items()})


def cast_to(dtype: str, stored: TensorInfo) -> TensorInfo:
    """The tensor as a plan under a cast has it."""
    nbytes = TORCH[dtype].itemsize * (stored.nbytes // TORCH[stored.dtype].itemsize)
    return stored._replace(dtype=dtype, nbytes=nbytes, cast=Cast(stored))


def test_wider_tensors_stay_one_batch() -> None:
    """With whatever is not cast, and with codes and their scales."""
    a = torch.arange(6, dtype=torch.float32).to(torch.bfloat16).reshape(2, 3)
    codes = torch.arange(24, dtype=torch.uint8).view(torch.float8_e4m3fn).reshape(6, 4)
    scales = torch.tensor([[0.5, 2.0], [4.0, 8.0], [1.0, 3.0]])
    source = memory(a=a, b=a, codes=codes, codes_scale_inv=scales)
    infos = source.checkpoint.tensors
    wide = cast_to("F32", infos["a"])
    scaled = cast_checkpoint(source.checkpoint, Casting(dequantize="BF16")).tensors["codes"]
    buffers = [memoryview(bytearray(n)) for n in (12, 4, 16)]
    CastSource(source).read(
        [Read(wide, 8, buffers[0]), Read(infos["b"], 2, buffers[1]), Read(scaled, 16, buffers[2])]
    )
    scale_reads = [("codes_scale_inv", 8, 8)]
    assert source.calls == [("read", [("a", 4, 6), ("b", 2, 4), ("codes", 8, 8), *scale_reads])]
    assert bytes(buffers[0]) == raw(a.float().reshape(-1)[2:5])
    assert bytes(buffers[1]) == raw(a.reshape(-1)[1:3])
    blocks = scales.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert bytes(buffers[2]) == raw((codes.float() * blocks).bfloat16().reshape(-1)[8:16])


def test_codes_that_are_spread_are_read_once() -> None:
    """A thread keeps the matrix that it read last."""
    torch.manual_seed(0)
    case = quantized.mxfp4_blocks(2, 6, 64)
    source = MemorySource(
        {f"a{n}": ("U8", tuple(t.shape), raw(t)) for n, t in case.tensors.items()},
        config=case.config,
    )
    (info,) = cast_checkpoint(source.checkpoint, Casting(dequantize="BF16")).tensors.values()
    reader, buffer = CastSource(source), memoryview(bytearray(info.nbytes))
    for begin in range(0, info.nbytes, 256):
        reader.read([Read(info, begin, buffer[begin : begin + 256])])
    reads = [read for _, each in source.calls for read in each if read]
    assert reads == [
        ("a_blocks", 0, 192),
        ("a_scales", 0, 12),
        ("a_blocks", 192, 192),
        ("a_scales", 12, 12),
    ]
    assert bytes(buffer) == raw(case.decoded(torch.bfloat16))


def test_a_matrix_is_read_into_the_memory_of_the_one_before() -> None:
    """Fresh pages for each would take longer than what is done with them."""
    case = quantized.mxfp4_blocks(2, 512, 256)
    source = MemorySource(
        {f"a{n}": ("U8", tuple(t.shape), raw(t)) for n, t in case.tensors.items()},
        config=case.config,
    )
    (info,) = cast_checkpoint(source.checkpoint, Casting(dequantize="BF16")).tensors.values()
    reader, buffer = CastSource(source), memoryview(bytearray(info.nbytes))
    half = info.nbytes // 2
    reader.read([Read(info, 0, buffer[:half])])
    tracemalloc.start()
    try:
        reader.read([Read(info, half, buffer[half:])])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 512 * 256 // 2, "less than the codes of a matrix"
    assert bytes(buffer) == raw(case.decoded(torch.bfloat16))


def test_a_row_that_is_cut_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of codes that are spread: the second of two reads has the end of the row."""
    case = quantized.mxfp4_blocks(1, 6, 64)
    source = MemorySource(
        {f"a{n}": ("U8", tuple(t.shape), raw(t)) for n, t in case.tensors.items()},
        config=case.config,
    )
    (info,) = cast_checkpoint(source.checkpoint, Casting(dequantize="BF16")).tensors.values()
    decoded: list[range] = []
    decode = RowDecoder.decode

    def noting(self: RowDecoder, rows: range, out: memoryview) -> None:
        decoded.append(rows)
        decode(self, rows, out)

    monkeypatch.setattr(RowDecoder, "decode", noting)
    reader, buffer = CastSource(source), memoryview(bytearray(info.nbytes))
    cut = 5 * 12 + 4
    for begin, end in ((0, cut), (cut, info.nbytes)):
        reader.read([Read(info, begin, buffer[begin:end])])
    assert decoded == [range(5), range(5, 6), range(6, 64)]
    assert bytes(buffer) == raw(case.decoded(torch.bfloat16))


def test_a_narrower_tensor_is_read_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of which is larger than the memory that is set aside."""
    monkeypatch.setattr("streamconv.sources.wrappers.cast.PORTION_BYTES", 12)
    values = torch.linspace(-3, 3, 10)
    source = memory(a=values)
    buffer = memoryview(bytearray(16))
    CastSource(source).read([Read(cast_to("BF16", source.checkpoint.tensors["a"]), 2, buffer)])
    assert source.calls == [
        ("read", [("a", 4, 12)]),
        ("read", [("a", 16, 12)]),
        ("read", [("a", 28, 8)]),
        ("read", []),
    ]
    assert bytes(buffer) == raw(values[1:9].bfloat16())


def test_nothing_is_cast() -> None:
    """An empty read of a cast tensor, and an empty batch."""
    source = memory(a=torch.zeros(4))
    info = source.checkpoint.tensors["a"]
    for dtype in ("BF16", "F32"):
        CastSource(source).read([Read(cast_to(dtype, info), 0, memoryview(bytearray()))])
    CastSource(source).read([])


@pytest.mark.parametrize("elements", [10, 3000, 10**5, 4 * 10**6])
@pytest.mark.parametrize(
    ("before", "after"),
    [("BF16", "F16"), ("F16", "BF16"), ("F32", "F16"), ("F32", "BF16"), ("BF16", "F32")],
)
def test_memory_is_that_of_the_plan(before: str, after: str, elements: int) -> None:
    """Next to the result: little for a small tensor, and never more than for a large one."""
    sizes = {"BF16": 2, "F16": 2, "F32": 4}
    source = MemorySource({"w": (before, (elements,), bytes(elements * sizes[before]))})
    stored = source.checkpoint.tensors["w"]
    info = stored._replace(dtype=after, nbytes=elements * sizes[after], cast=Cast(stored))
    out = memoryview(bytearray(min(info.nbytes, 2**20)))
    tracemalloc.start()
    try:
        CastSource(source).read([Read(info, 0, out)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < buffer_bytes([info], 1) <= 4 * 2**20
    assert elements > 10**5 or buffer_bytes([info], 1) < 2**19 + 40 * elements

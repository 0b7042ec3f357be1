"""Numbers of one dtype as numbers of another, against torch: every pattern of 8 and 16 bits."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from streamconv.quantization.dtype_kernels import CHUNK, cast

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
}
TARGETS = ("F32", "F16", "BF16")
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def raw(values: torch.Tensor) -> bytes:
    """The bytes of a tensor."""
    return values.contiguous().view(torch.uint8).numpy().tobytes()


def tensor(data: bytes | bytearray, dtype: str) -> torch.Tensor:
    """A tensor of these bytes."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(TORCH[dtype])


def ours(values: torch.Tensor, dtype: str, target: str) -> torch.Tensor:
    """What `cast` makes of them."""
    out = bytearray(values.numel() * TORCH[target].itemsize)
    cast(raw(values), dtype, memoryview(out), target)
    return tensor(out, target)


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal to the bit, but for what a NaN carries: torch itself has several answers there."""
    assert found.dtype == expected.dtype
    nan = expected.isnan()
    assert torch.equal(found.isnan(), nan)
    bits = INTEGERS[found.dtype.itemsize]
    assert torch.equal(found.view(bits)[~nan], expected.view(bits)[~nan])


def every(dtype: str) -> torch.Tensor:
    """Every bit pattern of a dtype of 8 or 16 bits."""
    bits = 8 * TORCH[dtype].itemsize
    patterns = torch.arange(2**bits, dtype=torch.int32)
    return patterns.to(torch.uint8 if bits == 8 else torch.uint16).view(TORCH[dtype])


@pytest.mark.parametrize("dtype", [d for d in TORCH if TORCH[d].itemsize <= 2])
@pytest.mark.parametrize("target", TARGETS)
def test_every_pattern_of_8_and_16_bits(dtype: str, target: str) -> None:
    """As torch converts it; float32 on the way is no loss."""
    values = every(dtype)
    assert_same(ours(values, dtype, target), values.to(torch.float32).to(TORCH[target]))
    if dtype != "F8_E8M0":
        assert_same(ours(values, dtype, target), values.to(TORCH[target]))


def edges() -> Iterator[int]:
    """Bit patterns of float32 around whatever a narrower float does differently."""
    for exponent, top, low in itertools.product(
        range(256), (0, 1, 2, 0x3F, 0x40, 0x7E, 0x7F), (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)
    ):
        yield exponent << 23 | top << 16 | low
    for exponent, shift, low in itertools.product(range(256), range(1, 24), (-1, 0, 1)):
        # halfway between two float16, subnormal ones too
        yield (exponent << 23) + (1 << (shift - 1)) + low & 0x7FFFFFFF
        yield (exponent << 23) + (3 << (shift - 1)) + low & 0x7FFFFFFF
    yield from (0x7F800001, 0x7FBFFFFF, 0x7FC00000, 0x7FFFFFFF, 0x477FEFFF, 0x477FF000, 0x477FE000)


@pytest.mark.parametrize("target", ["F16", "BF16"])
def test_edges_of_float32(target: str) -> None:
    """Ties, subnormal numbers, overflow, infinities and NaNs of both signs."""
    patterns = np.array(list(edges()), np.uint32)
    signed = np.concatenate([patterns, patterns | 0x80000000])
    values = torch.from_numpy(signed.view(np.float32))
    assert_same(ours(values, "F32", target), values.to(TORCH[target]))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["F64", "F32"])
def test_random_patterns(dtype: str, target: str) -> None:
    """Any bits, over several chunks and a rest."""
    generator = torch.Generator().manual_seed(0)
    shape = ((3 * CHUNK + 5) * TORCH[dtype].itemsize,)
    bits = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    values = bits.view(TORCH[dtype])
    assert_same(ours(values, dtype, target), values.to(TORCH[target]))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])
def test_a_nan_keeps_its_sign(dtype: str, target: str) -> None:
    """Also one whose payload would be cut away to that of an infinity."""
    bits = {"F64": 52, "F32": 23, "F16": 10, "BF16": 7, "F8_E4M3": 3, "F8_E5M2": 2}[dtype]
    width = 8 * TORCH[dtype].itemsize
    smallest = (2 ** (width - 1 - bits) - 1 << bits) | (7 if dtype == "F8_E4M3" else 1)
    patterns = [smallest, smallest | 1 << (width - 1)]
    data = b"".join(pattern.to_bytes(width // 8, "little") for pattern in patterns)
    found = ours(tensor(data, dtype), dtype, target)
    assert found.isnan().all()
    assert torch.signbit(found).tolist() == [False, True]


def test_float32_keeps_what_a_bfloat16_nan_carries() -> None:
    """Widening moves bits, so that coming back gives the same ones."""
    values = every("BF16")
    wide = ours(values, "BF16", "F32")
    assert raw(wide)[2::4] + raw(wide)[3::4] == raw(values)[0::2] + raw(values)[1::2]


@pytest.mark.parametrize(("dtype", "target"), [("BF16", "F32"), ("F8_E4M3", "BF16")])
def test_bytes_at_the_end_of_their_own_buffer(dtype: str, target: str) -> None:
    """What is stored is read before it is written over, over several chunks."""
    count = 3 * CHUNK + 7
    values = every(dtype)[torch.arange(count) % len(every(dtype))]
    buffer = memoryview(bytearray(count * TORCH[target].itemsize))
    stored = buffer[len(buffer) - count * TORCH[dtype].itemsize :]
    stored[:] = raw(values)
    cast(stored, dtype, buffer, target)
    assert bytes(buffer) == raw(ours(values, dtype, target))

"""Codes and scales are those of torch and compressed-tensors, bit for bit."""

from collections.abc import Callable

import pytest
import quantizers
import torch

from streamconv.catalog.encodings import encoding_row
from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import BadCheckpoint
from streamconv.quantization.encode import RowEncoder, elements_of
from streamconv.quantization.encoded_parts import encoded_parts
from streamconv.quantization.workspace import Workspace

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
KINDS = list(quantizers.QUANTIZERS)


def draw_bits(rows: int, columns: int) -> torch.Tensor:
    """Numbers of all magnitudes, subnormal ones as well, of which the scales stay finite."""
    drawn = torch.randint(-(2**31), 2**31, (rows, columns)).to(torch.int32).view(torch.float32)
    return torch.where(drawn.isfinite(), drawn, 0.0).clamp(-(2.0**126), 2.0**126)


def zeros(rows: int, columns: int) -> torch.Tensor:
    drawn = torch.randn(rows, columns)
    drawn[:140, :160] = 0
    drawn[200] = 0
    return drawn


DRAWS: dict[str, Callable[[int, int], torch.Tensor]] = {
    "weights": lambda o, i: torch.randn(o, i) * 0.02,
    "long tails": lambda o, i: (torch.randn(o, i) * (4 * torch.randn(o, i)).exp()).clamp(-3e4, 3e4),
    "zeros": zeros,
    "small": lambda o, i: torch.randn(o, i) * 1e-7,
    "halfway": lambda o, i: torch.randint(-12, 13, (o, i)) * 0.25,
    "any": draw_bits,
}


def encode(weight: torch.Tensor, kind: str) -> list[bytes]:
    """The parts of a weight as the package makes them."""
    name, _, scale = kind.partition(" ")
    dtype = next(text for text, each in DTYPES.items() if each == weight.dtype)
    row = encoding_row(name, scale or None)
    info = TensorInfo("a.weight", dtype, tuple(weight.shape), "", 0, weight.nbytes)
    codes, scales = encoded_parts(info, row, scale or None)[:2]
    encoding = codes.cast.encoding
    encoder = RowEncoder(encoding, Workspace())
    raw = bytearray(raw_bytes(weight))
    elements = elements_of(memoryview(raw), dtype, weight.shape[1])
    found = encoder.scales(elements, "a.weight")
    made = [encoder.codes(elements, found), encoder.stored_scales(found, scales.dtype)]
    assert [part.nbytes for part in made] == [codes.nbytes, scales.nbytes]
    return [part.tobytes() for part in made]


@pytest.mark.parametrize("drawn", DRAWS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_codes_and_scales(kind: str, dtype: str, drawn: str) -> None:
    """Edges that are no whole blocks, zeros, halves, and numbers next to the limits."""
    torch.manual_seed(3)
    weight = DRAWS[drawn](300, 416).to(DTYPES[dtype])
    weight = torch.where(weight.isfinite(), weight, 0.0)
    if kind == "mxfp4":
        # the library drops the sign of a zero, and has an infinite scale for a large float16
        weight = (weight + 0.0).clamp(-5e4, 5e4) if dtype == "F16" else weight + 0.0
    reference = quantizers.QUANTIZERS[kind](weight)
    wanted = [quantizers.codes_of(reference), quantizers.scales_of(reference)]
    assert encode(weight, kind) == [raw_bytes(tensor) for tensor in wanted]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["fp8-block", "fp8-channel", "mxfp4"])
def test_what_was_quantized_comes_back(kind: str, dtype: str) -> None:
    """Dequantized to float32 and quantized again, it has its codes, and scales of the same value.

    Not in int4: the library divides the largest number by 7.5, which no code is. And not with the
    power of two above if the largest number was rounded down to one.
    """
    torch.manual_seed(4)
    weight = (torch.randn(512, 1024) * torch.rand(512, 1)).to(DTYPES[dtype])
    parts = quantizers.QUANTIZERS[kind](weight)
    codes, scales = encode(quantizers.decoded(kind, parts), kind)
    assert codes == raw_bytes(quantizers.codes_of(parts))
    stored = quantizers.scales_of(parts)
    assert scales == raw_bytes(stored.float() if kind == "fp8-channel" else stored)


def raw_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_number_has_to_be_finite(kind: str, dtype: str, value: float) -> None:
    """The error names the tensor and the element."""
    weight = torch.randn(150, 64).to(DTYPES[dtype])
    weight[141, 37] = value
    with pytest.raises(BadCheckpoint, match=r"a\.weight.*\[141, 37\] is (nan|inf|-inf)"):
        encode(weight, kind)

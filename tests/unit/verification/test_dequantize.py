"""The second computation of dequantized weights, against the libraries and against the first."""

from collections.abc import Iterator

import pytest
import quantized
import torch
from decoded import TARGETS, decoded_of, raw, read_cast, source_of
from quantized import CASES, Case

from streamconv.sources.base import Read
from streamconv.verification.dequantize import DequantizedSource


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    torch.manual_seed(11)
    yield CASES[request.param]()


@pytest.mark.parametrize("target", TARGETS)
def test_computed_as_its_library_does(
    case: Case, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one read, in bands of a few rows, and from anywhere in a row."""
    monkeypatch.setattr("streamconv.verification.dequantize.BAND", 200)
    source = source_of(case)
    info = decoded_of(source, target)
    whole = raw(case.decoded(TARGETS[target]))
    reader = DequantizedSource(source)
    width = TARGETS[target].itemsize
    for begin, end in (
        (0, len(whole)),
        (7 * width, len(whole) - 3 * width),
        (5 * width, 6 * width),
    ):
        buffer = memoryview(bytearray(end - begin))
        reader.read([Read(info, begin, buffer)])
        assert bytes(buffer) == whole[begin:end]


def test_codes_that_are_no_numbers() -> None:
    """Every byte of each float of 8 bits, NaNs with their signs among them."""
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        weight = torch.arange(256, dtype=torch.uint8).view(dtype).reshape(2, 128)
        case = Case({".weight": weight, ".weight_scale": torch.tensor(0.3)}, {}, weight.to)
        source = source_of(case)
        for target in TARGETS:
            info = decoded_of(source, target)
            buffer = memoryview(bytearray(info.nbytes))
            DequantizedSource(source).read([Read(info, 0, buffer)])
            assert bytes(buffer) == read_cast(source, info)


def test_experts_of_modelopt_in_one_tensor() -> None:
    """Two codes of one column in a byte, several matrices, and one scale for all of them."""
    torch.manual_seed(3)
    packed = quantized.draw(3, 16, 24).to(torch.uint8)
    scale = quantized.codes8(3, 2, 24).float().abs().clamp(min=2**-9).to(torch.float8_e4m3fn)
    tensors = {"": packed, "_weight_scale": scale, "_weight_scale_2": torch.tensor(0.02)}
    source = source_of(Case(tensors, {}, packed.to))
    info = decoded_of(source, "BF16")
    for begin, end in ((0, info.nbytes), (1000, 4000)):
        buffer = memoryview(bytearray(end - begin))
        DequantizedSource(source).read([Read(info, begin, buffer)])
        assert bytes(buffer) == read_cast(source, info, begin, end - begin)

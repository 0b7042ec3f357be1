"""The sentence that people read about a number format."""

from collections.abc import Callable

import pytest
import quantized
from decoded import DTYPES, raw
from memory_source import MemorySource
from quantized import Case

from streamconv.quantization.describe import format_uses
from streamconv.quantization.recognize import recognize


def says(make: Callable[[], Case], *stems: str) -> list[str]:
    tensors = {}
    config = {}
    for stem in stems:
        case = make()
        config = case.config
        for name, tensor in case.tensors.items():
            tensors[stem + name] = (DTYPES[tensor.dtype], tuple(tensor.shape), raw(tensor))
    checkpoint = MemorySource(tensors, config=config).checkpoint
    return [use.says for use in format_uses(recognize(checkpoint))]


EXPERT, DENSE = "model.layers.0.mlp.experts.3.up_proj", "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: quantized.packed_int(8, 64), "compressed-tensors, int4 in groups of 32"),
        (
            lambda: quantized.fp8_channel(8, 64),
            "compressed-tensors, FP8 with a scale for each channel",
        ),
        (lambda: quantized.fp8_tensor(8, 64), "FP8 with a scale for each tensor"),
        (lambda: quantized.fp8_block(32, 64), "FP8 in blocks of 16 x 16"),
        (lambda: quantized.nvfp4(8, 64), "ModelOpt, NVFP4 in groups of 16"),
        (lambda: quantized.awq(8, 64), "AWQ, int4 in groups of 32"),
        (lambda: quantized.mxfp8(8, 64), "MXFP8 in groups of 32"),
    ],
)
def test_what_has_a_scale_and_who_made_it(make: Callable[[], Case], sentence: str) -> None:
    assert says(make, EXPERT) == [f"{sentence}, experts only"]
    assert says(make, DENSE) == [f"{sentence}, other weights than experts"]
    assert says(make, EXPERT, DENSE) == [f"{sentence}, experts and other weights"]

"""Where numbers lie: in shapes that are published, and with several matrices in a tensor."""

from collections.abc import Callable

import pytest
import quantized
import torch
from decoded import decoded_of, raw, read_cast, source_of
from quantized import Case

from streamconv.checkpoint.casting import Casting
from streamconv.checkpoint.types import Checkpoint, TensorInfo
from streamconv.quantization.cast_checkpoint import cast_checkpoint


@pytest.mark.parametrize("grid", [(3, 8, 1), (3, 1, 32), (3, 1, 1), (3,), (), (1,)], ids=str)
def test_experts_in_one_tensor(grid: tuple[int, ...]) -> None:
    """Scales for rows, columns or experts, or one for all: Maverick, Mistral-Small."""
    weight, scale = quantized.codes8(3, 8, 32), quantized.scales(*grid, dtype=torch.bfloat16)
    wide = scale.reshape(*grid, *(1,) * (3 - len(grid))) if len(grid) in (1, 3) else scale
    wanted = (weight.float() * wide.float()).bfloat16()
    source = source_of(Case({"": weight, "_scale": scale}, {}, wanted.to))
    info = decoded_of(source, "BF16")
    assert (info.name, info.shape) == ("a", (3, 8, 32))
    assert read_cast(source, info) == raw(wanted)
    assert read_cast(source, info, 522, 610) == raw(wanted)[522:1132]


@pytest.mark.parametrize("make", [quantized.fp8_group, quantized.int8], ids=["fp8", "int8"])
def test_groups_of_turned_experts(make: Callable[..., Case]) -> None:
    """Inputs come before outputs, and so do their groups."""
    case = make(8, 32, group=16)
    turned = {f"{end}": tensor[None].mT.contiguous() for end, tensor in case.tensors.items()}
    source = source_of(Case(turned, case.config, case.decoded))
    info = decoded_of(source, "F32")
    assert info.shape == (1, 32, 8)
    assert read_cast(source, info) == raw(case.decoded(torch.float32).mT)


def test_experts_of_modelopt_in_one_tensor() -> None:
    """Llama-4: two codes of one column in a byte, and one scale for all experts."""
    packed = quantized.draw(3, 16, 24).to(torch.uint8)
    scale = quantized.codes8(3, 2, 24).float().abs().clamp(min=2**-9).to(torch.float8_e4m3fn)
    second = torch.tensor(0.02)
    pairs = quantized.nibbles(packed.transpose(1, 2).contiguous()).transpose(1, 2)
    factor = (scale.float() * second).repeat_interleave(16, 1)
    wanted = ((quantized.E2M1[pairs] + 0.0) * factor).bfloat16()
    tensors = {"": packed, "_weight_scale": scale, "_weight_scale_2": second}
    source = source_of(Case(tensors, {}, wanted.to))
    info = decoded_of(source, "BF16")
    assert (info.name, info.shape) == ("a", (3, 32, 24))
    assert read_cast(source, info) == raw(wanted)


TRUE_SHAPES = {
    "MiniMax-M3": (
        {"quantization_config": {"quant_method": "mxfp8", "weight_block_size": [1, 32]}},
        {".weight": ("F8_E4M3", (3072, 6144)), ".weight_scale_inv": ("U8", (3072, 192))},
        ("mxfp8", (3072, 6144)),
    ),
    "Kimi-K3": (
        quantized.compressed("mxfp4-pack-quantized", num_bits=4, type="float", group_size=32),
        {".weight_packed": ("U8", (2048, 3584)), ".weight_scale": ("U8", (2048, 224))},
        ("mxfp4-packed", (2048, 7168)),
    ),
    "Maverick": (
        quantized.compressed("float-quantized", num_bits=8, type="float", strategy="channel"),
        {"": ("F8_E4M3", (128, 5120, 16384)), "_scale": ("BF16", (128, 1, 16384))},
        ("fp8-channel", (128, 5120, 16384)),
    ),
    "gpt-oss-120b": (
        {"quantization_config": {"quant_method": "mxfp4"}},
        {"_blocks": ("U8", (128, 5760, 90, 16)), "_scales": ("U8", (128, 5760, 90))},
        ("mxfp4-blocks", (128, 2880, 5760)),
    ),
}


@pytest.mark.parametrize("name", TRUE_SHAPES)
def test_published_shapes_are_recognized(name: str) -> None:
    """From headers alone, nothing is read."""
    config, tensors, (kind, shape) = TRUE_SHAPES[name]
    infos = {
        f"a{end}": TensorInfo(f"a{end}", dtype, sizes, "f", 0, 0)
        for end, (dtype, sizes) in tensors.items()
    }
    checkpoint = Checkpoint("here", infos, (), (), config, None, 0)
    (info,) = cast_checkpoint(checkpoint, Casting(dequantize="BF16")).tensors.values()
    assert info.cast is not None
    assert info.cast.decoding is not None
    assert (info.cast.decoding.format, info.shape) == (kind, shape)

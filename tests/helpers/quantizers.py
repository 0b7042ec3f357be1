"""What torch makes of a weight in FP8 blocks, and compressed-tensors in the other formats.

Each function returns the codes and the scales as bytes, as they are stored.
"""

import torch
from quantized import E2M1, nibbles

Tensors = dict[str, torch.Tensor]


def fp8_block(weight: torch.Tensor, *, powers: bool = False) -> Tensors:
    """Blocks of 128 x 128: the largest magnitude by 448, in float32; clamped, and cast."""
    rows, columns = weight.shape
    padded = torch.nn.functional.pad(weight.float(), (0, -columns % 128, 0, -rows % 128))
    blocks = padded.unflatten(0, (-1, 128)).unflatten(2, (-1, 128))
    largest = blocks.abs().amax((1, 3))
    scales = torch.where(largest == 0, 1.0, largest / 448)
    if powers:
        scales = torch.exp2(torch.ceil(torch.log2(scales.double()))).float()
    codes = (blocks / scales[:, None, :, None]).clamp(-448, 448).to(torch.float8_e4m3fn)
    whole = codes.view(torch.uint8).reshape(padded.shape)[:rows, :columns].contiguous()
    stored = scales.to(torch.float8_e8m0fnu) if powers else scales
    return {".weight": whole.view(torch.float8_e4m3fn), ".weight_scale_inv": stored}


def _library(weight: torch.Tensor, layout: str, group: int | None, **weights: object) -> Tensors:
    """What compressed-tensors makes of a weight: scales by its formula, codes by its compressor."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    args = QuantizationArgs(symmetric=True, dynamic=False, group_size=group, **weights)
    grouped = weight.unflatten(1, (-1, group)) if group else weight[:, None]
    scale, _ = calculate_qparams(grouped.amin(-1), grouped.amax(-1), args)
    compressor = BaseCompressor.get_value_from_registry(layout)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    made = compressor.compress({"weight": weight, "weight_scale": scale}, scheme)
    return {f".{name}": tensor for name, tensor in made.items()}


def fp8_channel(weight: torch.Tensor) -> Tensors:
    return _library(weight, "float-quantized", None, num_bits=8, type="float", strategy="channel")


def int4(weight: torch.Tensor) -> Tensors:
    return _library(weight, "pack-quantized", 32, num_bits=4, type="int", strategy="group")


def mxfp4(weight: torch.Tensor) -> Tensors:
    return _library(
        weight,
        "mxfp4-pack-quantized",
        32,
        num_bits=4,
        type="float",
        strategy="group",
        scale_dtype=torch.uint8,
    )


QUANTIZERS = {
    "fp8-block": fp8_block,
    "fp8-block ue8m0": lambda weight: fp8_block(weight, powers=True),
    "fp8-channel": fp8_channel,
    "int4-g32": int4,
    "mxfp4": mxfp4,
}
"""By the values of `--quantize` and `--scale`."""


def codes_of(parts: Tensors) -> torch.Tensor:
    return parts[".weight_packed" if ".weight_packed" in parts else ".weight"]


def scales_of(parts: Tensors) -> torch.Tensor:
    return parts[".weight_scale_inv" if ".weight_scale_inv" in parts else ".weight_scale"]


def decoded(kind: str, parts: Tensors) -> torch.Tensor:
    """What the parts of a weight stand for, in float32."""
    if kind.startswith("fp8"):
        codes, scales = parts[".weight"], scales_of(parts)
        block = 128 if kind.startswith("fp8-block") else codes.shape[1]
        height = 128 if kind.startswith("fp8-block") else 1
        wide = scales.float().repeat_interleave(height, 0).repeat_interleave(block, 1)
        return codes.float() * wide[: codes.shape[0], : codes.shape[1]]
    if kind == "int4-g32":
        packed = parts[".weight_packed"].view(torch.uint8)
        scales = parts[".weight_scale"].float()
        return (nibbles(packed).float() - 8) * scales.repeat_interleave(32, 1)
    scales = torch.exp2(parts[".weight_scale"].double() - 127).float()
    return E2M1[nibbles(parts[".weight_packed"])] * scales.repeat_interleave(32, 1)

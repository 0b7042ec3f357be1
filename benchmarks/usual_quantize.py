"""Quantize a checkpoint as people do: all of it in memory, with torch.

    python benchmarks/usual_quantize.py fp8-block SRC DST

fp8-block is the formula in torch: the largest magnitude of each block of 128 x 128 by 448. int4-g32
is what compressed-tensors compresses.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


def fp8_block(name: str, weight: torch.Tensor) -> Tensors:
    """Divide each block by its scale, clamp and cast."""
    rows, columns = weight.shape
    blocks = weight.float().reshape(rows // 128, 128, columns // 128, 128)
    scales = blocks.abs().amax((1, 3)) / 448
    codes = (blocks / scales[:, None, :, None]).clamp(-448, 448).to(torch.float8_e4m3fn)
    return {name: codes.reshape(rows, columns), f"{name}_scale_inv": scales}


def int4_g32(name: str, weight: torch.Tensor) -> Tensors:
    """Compress with compressed-tensors."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    args = QuantizationArgs(num_bits=4, type="int", strategy="group", group_size=32)
    groups = weight.unflatten(1, (-1, 32))
    scale, _ = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
    compressor = BaseCompressor.get_value_from_registry("pack-quantized")
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    parts = compressor.compress({"weight": weight, "weight_scale": scale}, scheme)
    return {name.replace("weight", part): tensor for part, tensor in parts.items()}


def main() -> None:
    """Quantize the checkpoint that the command line names."""
    kind, source, target = sys.argv[1:]
    tensors = load_file(Path(source) / "model.safetensors")
    quantize = {"fp8-block": fp8_block, "int4-g32": int4_g32}[kind]
    out: Tensors = {}
    for name in list(tensors):
        out |= quantize(name, tensors.pop(name))
    Path(target).mkdir()
    save_file(out, Path(target) / "model.safetensors")


if __name__ == "__main__":
    main()

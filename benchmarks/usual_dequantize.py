"""Dequantize a checkpoint as people do: all of it in memory, with torch.

    python benchmarks/usual_dequantize.py fp8 SRC DST

fp8 is DeepSeek's formula in torch, int4 what compressed-tensors decompresses, and mxfp4 the
function of transformers. The experts are stacked, and saved by safetensors.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


def fp8(tensors: Tensors) -> Tensors:
    """Multiply each weight by the scales of its blocks."""
    out: Tensors = {}
    for name in [name for name in tensors if name.endswith(".weight")]:
        weight, scale = tensors.pop(name), tensors.pop(f"{name}_scale_inv")
        wide = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)
        out[name] = (weight.float() * wide).to(torch.bfloat16)
    return out


def int4(tensors: Tensors) -> Tensors:
    """Decompress each weight with compressed-tensors."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    args = QuantizationArgs(num_bits=4, type="int", strategy="group", group_size=32)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry("pack-quantized")
    out: Tensors = {}
    for name in [name for name in tensors if name.endswith("_packed")]:
        weight = name.removesuffix("_packed")
        parts = {
            f"weight{end}": tensors.pop(weight + end) for end in ("_packed", "_scale", "_shape")
        }
        out[weight] = compressor.decompress(parts, scheme)["weight"]
    return out


def mxfp4(tensors: Tensors) -> Tensors:
    """Convert the blocks of all experts with the function of transformers."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    out: Tensors = {}
    for name in [name for name in tensors if name.endswith("_blocks")]:
        weight = name.removesuffix("_blocks")
        blocks, scales = tensors.pop(name), tensors.pop(f"{weight}_scales")
        out[weight] = convert_moe_packed_tensors(blocks, scales)
    return {**out, **tensors}


def stacked(tensors: Tensors) -> Tensors:
    """Fuse gate and up, and stack the experts, if they are one by one."""
    names = [name for name in tensors if ".gate_proj." in name]
    if not names:
        return tensors
    stem = names[0].split(".experts.")[0] + ".experts."

    def of(projection: str) -> list[torch.Tensor]:
        count = range(len(names))
        return [tensors.pop(f"{stem}{number}.{projection}.weight") for number in count]

    pairs = zip(of("gate_proj"), of("up_proj"), strict=True)
    gate_up = torch.stack([torch.cat(pair) for pair in pairs])
    return {f"{stem}gate_up_proj": gate_up, f"{stem}down_proj": torch.stack(of("down_proj"))}


def main() -> None:
    """Dequantize the checkpoint that the command line names."""
    kind, source, target = sys.argv[1:]
    tensors = load_file(Path(source) / "model.safetensors")
    decode = {"fp8": fp8, "int4": int4, "mxfp4": mxfp4}[kind]
    made = stacked(decode(tensors))
    Path(target).mkdir()
    save_file(
        {name: tensor.contiguous() for name, tensor in made.items()}, f"{target}/m.safetensors"
    )


if __name__ == "__main__":
    main()

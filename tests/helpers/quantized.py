"""Weights in every number format, with random codes, and what their own libraries decode.

Each maker returns the tensors of one weight by the rest of their names, such as `.weight_scale`,
what config.json says of them, and the weight as its library or a formula of torch decodes it.
"""

import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """A quantized weight."""

    tensors: Tensors
    config: dict[str, Any]
    decoded: Callable[[torch.dtype], torch.Tensor]
    """What it stands for, in a dtype."""


def draw(*shape: int, low: int = 0, high: int = 256) -> torch.Tensor:
    return torch.randint(low, high, shape)


def codes8(*shape: int) -> torch.Tensor:
    """Codes of e4m3, all of them but NaN."""
    values = draw(*shape).to(torch.uint8)
    values[values & 127 == 127] = 126
    return values.view(torch.float8_e4m3fn)


def scales(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.rand(shape) / 50 + 0.001).to(dtype)


def exponents(*shape: int) -> torch.Tensor:
    return draw(*shape, low=100, high=140).to(torch.uint8)


def e8m0(values: torch.Tensor) -> torch.Tensor:
    return values.view(torch.float8_e8m0fnu)


def power(values: torch.Tensor) -> torch.Tensor:
    """2 to the exponent, as the OCP formula has it."""
    return torch.ldexp(torch.ones(values.shape), values.to(torch.int32) - 127)


def wide(grid: torch.Tensor, rows: int, columns: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Numbers for blocks as numbers for elements."""
    whole = grid.repeat_interleave(rows, -2).repeat_interleave(columns, -1)
    return whole[..., : shape[-2], : shape[-1]]


def product(codes: torch.Tensor, scale: torch.Tensor) -> Callable[[torch.dtype], torch.Tensor]:
    """The formula of them all, rounded once."""
    return (codes.float() * scale.float()).to


def section(method: str, **facts: Any) -> dict[str, Any]:
    return {"quantization_config": {"quant_method": method, **facts}}


def compressed(layout: str, **weights: Any) -> dict[str, Any]:
    """What compressed-tensors writes."""
    group = {"targets": ["Linear"], "weights": {"symmetric": True, "dynamic": False, **weights}}
    return section("compressed-tensors", format=layout, config_groups={"group_0": group})


def library(layout: str, state: Tensors, **weights: Any) -> torch.Tensor:
    """What compressed-tensors makes of a weight."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    args = QuantizationArgs(**{"symmetric": True, "dynamic": False, **weights})
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry(layout)
    return compressor.decompress({n.lstrip("."): t for n, t in state.items()}, scheme)["weight"]


def nibbles(packed: torch.Tensor) -> torch.Tensor:
    """The codes in each byte, the lower half first."""
    pairs = torch.stack([packed & 15, packed >> 4], dim=-1)
    return pairs.reshape(*packed.shape[:-1], -1).long()


def unpacked(words: torch.Tensor, order: tuple[int, ...] = tuple(range(8))) -> torch.Tensor:
    """The eight codes in each I32 of the last dimension."""
    parts = [words.to(torch.int64) >> 4 * order.index(k) & 15 for k in range(8)]
    return torch.stack(parts, dim=-1).reshape(*words.shape[:-1], -1)


def words(*shape: int) -> torch.Tensor:
    return draw(*shape, low=-(2**31), high=2**31).to(torch.int32)


@functools.cache
def modelopt_tensor() -> Any:
    """The class `NVFP4QTensor` of nvidia-modelopt.

    Its packages import all of transformers first, which takes ten seconds. So they are not
    imported: its own module is.
    """
    (root,) = importlib.util.find_spec("modelopt").submodule_search_locations or ()
    base = "modelopt.torch.quantization"
    names = ("modelopt", "modelopt.torch", base, *(f"{base}.{p}" for p in ("qtensor", "utils")))
    for name in names:
        package = types.ModuleType(name)
        package.__path__ = [str(Path(root).joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    backends = types.ModuleType(f"{base}.backends.utils")
    sys.modules |= {f"{base}.backends": types.ModuleType("backends"), backends.__name__: backends}
    backends.fp4_compatible = None  # type: ignore[attr-defined]
    functions = ("reduce_amax", "reduce_block_amax", "reduce_block_padding")
    for function in (*functions, "fsdp2_aware_weight_update", "patch_fsdp_mp_dtypes"):
        setattr(sys.modules[f"{base}.utils"], function, None)
    return importlib.import_module(f"{base}.qtensor.nvfp4_tensor").NVFP4QTensor


# --- floats of 8 bits --------------------------------------------------------------------------


def fp8_block(
    o: int, i: int, name: str = ".weight_scale_inv", dtype: str = "float32", block: int = 16
) -> Case:
    weight = codes8(o, i)
    grid = (-(-o // block), -(-i // block))
    if dtype in ("e8m0", "uint8"):
        stored = exponents(*grid)
        value = power(stored)
        stored = e8m0(stored) if dtype == "e8m0" else stored
    else:
        stored = value = scales(*grid, dtype=getattr(torch, dtype))
    config = section("fp8", weight_block_size=[block, block])
    if name == ".weight_scale":
        config = compressed(
            "float-quantized",
            num_bits=8,
            type="float",
            strategy="block",
            block_structure=[block, block],
        )
    return Case(
        {".weight": weight, name: stored},
        config,
        product(weight, wide(value.float(), block, block, (o, i))),
    )


def fp8_channel(o: int, i: int, dtype: str = "bfloat16", flat: bool = False) -> Case:
    weight, scale = codes8(o, i), scales(o, 1, dtype=getattr(torch, dtype))
    config = compressed("float-quantized", num_bits=8, type="float", strategy="channel")
    stored = scale.reshape(-1) if flat else scale
    return Case({".weight": weight, ".weight_scale": stored}, config, product(weight, scale))


def fp8_group(o: int, i: int, group: int = 16) -> Case:
    facts = {"num_bits": 8, "type": "float", "strategy": "group", "group_size": group}
    tensors = {".weight": codes8(o, i), ".weight_scale": scales(o, i // group)}

    def decoded(dtype: torch.dtype) -> torch.Tensor:
        return library("float-quantized", tensors, **facts).to(dtype)

    return Case(tensors, compressed("float-quantized", **facts), decoded)


def fp8_tensor(o: int, i: int, shape: tuple[int, ...] = (), dtype: str = "float32") -> Case:
    weight, scale = codes8(o, i), scales(*shape, dtype=getattr(torch, dtype))
    tensors = {".weight": weight, ".weight_scale": scale, ".input_scale": scales(*shape)}
    config = section("fp8", activation_scheme="static")
    if shape:
        config = compressed("float-quantized", num_bits=8, type="float", strategy="tensor")
    return Case(tensors, config, product(weight, scale.reshape(1, 1)))


def mxfp8(o: int, i: int) -> Case:
    weight, scale = codes8(o, i), exponents(o, i // 32)
    config = section("mxfp8", weight_block_size=[1, 32])
    decoded = product(weight, wide(power(scale), 1, 32, (o, i)))
    return Case({".weight": weight, ".weight_scale_inv": scale}, config, decoded)


# --- integers ----------------------------------------------------------------------------------


def packed_int(
    o: int,
    i: int,
    *,
    bits: int = 4,
    group: int | None = 32,
    symmetric: bool = True,
    ordered: bool = True,
    scale_dtype: str = "bfloat16",
    shape_dtype: str = "int64",
) -> Case:
    """pack-quantized: by compressed-tensors itself if its groups are whole, as it requires."""
    from compressed_tensors.compressors.pack_quantized.helpers import (
        pack_to_int32,
        unpack_from_int32,
    )

    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)
    codes = draw(o, i, low=low, high=high).to(torch.int8)
    columns = 1 if group is None else -(-i // group)
    scale = scales(o, columns, dtype=getattr(torch, scale_dtype))
    tensors = {
        ".weight_packed": pack_to_int32(codes, bits),
        ".weight_scale": scale,
        ".weight_shape": torch.tensor([o, i], dtype=getattr(torch, shape_dtype)),
    }
    zero = torch.zeros(o, columns, dtype=torch.int8)
    if not symmetric:
        zero = draw(o, columns, low=low, high=high).to(torch.int8)
        tensors[".weight_zero_point"] = pack_to_int32(zero, bits, packed_dim=0)
    facts = {"num_bits": bits, "type": "int", "symmetric": symmetric}
    facts |= {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    index = torch.arange(i) // (group or i)
    if not ordered:
        index = index[torch.randperm(i)]
        tensors[".weight_g_idx"] = index.to(torch.int32)
    back = unpack_from_int32(tensors[".weight_packed"], bits, torch.Size((o, i)))
    assert torch.equal(back, codes)
    whole = [part.float()[:, index] for part in (zero, scale)]
    formula = product(codes.float() - whole[0], whole[1])

    def decoded(dtype: torch.dtype) -> torch.Tensor:
        if dtype == scale.dtype and (group is None or i % group == 0):
            # The library has no group index any more. Its older versions sorted the columns by
            # their groups, decompressed, and put them back.
            in_order = torch.argsort(index, stable=True)
            plain = {n: t for n, t in tensors.items() if n != ".weight_g_idx"}
            plain[".weight_packed"] = pack_to_int32(codes[:, in_order], bits)
            made = torch.empty(o, i, dtype=dtype)
            made[:, in_order] = library("pack-quantized", plain, **facts)
            assert torch.equal(made, formula(dtype))
            return made
        return formula(dtype)

    return Case(tensors, compressed("pack-quantized", **facts), decoded)


def int8(o: int, i: int, *, symmetric: bool = True, group: int | None = None) -> Case:
    facts: dict[str, Any] = {"num_bits": 8, "type": "int", "symmetric": symmetric}
    facts |= {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    grid = (o, i // (group or i))
    weight = draw(o, i, low=-128, high=128).to(torch.int8)
    scale = scales(*grid, dtype=torch.bfloat16)
    tensors = {".weight": weight, ".weight_scale": scale}
    zero = torch.zeros(*grid, dtype=torch.int8)
    if not symmetric:
        tensors[".weight_zero_point"] = zero = draw(*grid, low=-128, high=128).to(torch.int8)
    whole = [wide(part.float(), 1, group or i, (o, i)) for part in (zero, scale)]
    formula = product(weight.float() - whole[0], whole[1])

    def decoded(dtype: torch.dtype) -> torch.Tensor:
        return (
            library("int-quantized", tensors, **facts) if dtype == scale.dtype else formula(dtype)
        )

    return Case(tensors, compressed("int-quantized", **facts), decoded)


def gptq(o: int, i: int, *, group: int = 32, ordered: bool = True, version: str = "") -> Case:
    """GPTQ by its formula; its files store zero points less one."""
    groups = i // group
    weight, zeros = words(i // 8, o), words(groups, o // 8)
    scale = scales(groups, o, dtype=torch.float16)
    index = torch.arange(i) // group
    if not ordered:
        index = index[torch.randperm(i)]
    codes = unpacked(weight.t())
    zero = unpacked(zeros)
    if version != "gptq_v2":
        zero = zero + 1 & 15
    facts = {"bits": 4, "group_size": group, "desc_act": not ordered, "sym": False}
    facts |= {"checkpoint_format": version} if version else {}
    tensors = {
        ".qweight": weight,
        ".qzeros": zeros,
        ".scales": scale,
        ".g_idx": index.to(torch.int32),
    }
    decoded = product(codes - zero[index].t(), scale[index].t())
    return Case(tensors, section("gptq", **facts), decoded)


def awq(o: int, i: int, group: int = 32) -> Case:
    """AWQ by its formula, eight outputs in an I32 in its own order."""
    groups = i // group
    weight, zeros = words(i, o // 8), words(groups, o // 8)
    scale = scales(groups, o, dtype=torch.float16)
    tensors = {".qweight": weight, ".qzeros": zeros, ".scales": scale}
    config = section("awq", bits=4, group_size=group, zero_point=True, version="gemm")
    index = torch.arange(i) // group
    codes, zero = (unpacked(part, AWQ_ORDER) for part in (weight, zeros))
    return Case(tensors, config, product((codes - zero[index]).t(), scale[index].t()))


# --- floats of 4 bits --------------------------------------------------------------------------


def mxfp4_blocks(experts: int, o: int, i: int) -> Case:
    """gpt-oss: one tensor for all experts, which transformers turns when it decodes it."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    blocks = draw(experts, o, i // 32, 16).to(torch.uint8)
    scale = exponents(experts, o, i // 32)
    values = E2M1[nibbles(blocks.reshape(experts, o, -1))]
    formula = product(values, wide(power(scale), 1, 32, values.shape))

    def decoded(dtype: torch.dtype) -> torch.Tensor:
        made = formula(dtype).transpose(1, 2).contiguous()
        if dtype == torch.bfloat16:
            assert torch.equal(made, convert_moe_packed_tensors(blocks, scale))
        return made

    return Case({"_blocks": blocks, "_scales": scale}, section("mxfp4"), decoded)


def mxfp4_bytes(o: int, i: int) -> Case:
    """DeepSeek-V4: two in an I8."""
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    weight, scale = draw(o, i // 2).to(torch.uint8).view(torch.int8), exponents(o, i // 32)
    config = {"expert_dtype": "fp4", **section("fp8", weight_block_size=[128, 128])}

    def decoded(dtype: torch.dtype) -> torch.Tensor:
        one = Fp8Dequantize(None)._dequantize_one
        return one(weight, e8m0(scale), output_dtype=dtype)

    return Case({".weight": weight, ".scale": e8m0(scale)}, config, decoded)


def mxfp4_packed(o: int, i: int) -> Case:
    facts = {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}
    weight, scale = draw(o, i // 2).to(torch.uint8), exponents(o, i // 32)
    tensors = {".weight_packed": weight, ".weight_scale": scale}
    formula = product(E2M1[nibbles(weight)], wide(power(scale), 1, 32, (o, i)))

    def decoded(dtype: torch.dtype) -> torch.Tensor:
        if dtype == torch.bfloat16:
            return library("mxfp4-pack-quantized", tensors, **facts)
        return formula(dtype)

    return Case(tensors, compressed("mxfp4-pack-quantized", **facts), decoded)


def nvfp4(o: int, i: int) -> Case:
    """ModelOpt: the second scale multiplies."""
    weight, scale = draw(o, i // 2).to(torch.uint8), codes8(o, i // 16).float().abs()
    scale = scale.clamp(min=2**-9).to(torch.float8_e4m3fn)
    second = torch.tensor(0.0123)
    tensors = {
        ".weight": weight,
        ".weight_scale": scale,
        ".weight_scale_2": second,
        ".input_scale": torch.tensor(0.5),
    }

    def decoded(dtype: torch.dtype) -> torch.Tensor:
        tensor = modelopt_tensor()(torch.Size((o, i)), dtype, weight)
        return tensor.dequantize(scale=scale, double_scale=second, block_sizes={-1: 16})

    return Case(tensors, section("modelopt", quant_algo="NVFP4"), decoded)


def nvfp4_packed(o: int, i: int) -> Case:
    """compressed-tensors: the second scale divides."""
    facts = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
    weight, scale = draw(o, i // 2).to(torch.uint8), codes8(o, i // 16).float().abs()
    scale = scale.clamp(min=2**-9).to(torch.float8_e4m3fn)
    second = torch.tensor([1234.5])
    tensors = {
        ".weight_packed": weight,
        ".weight_scale": scale,
        ".weight_global_scale": second,
        ".input_global_scale": torch.tensor([0.5]),
    }
    factor = wide(scale.float() / second, 1, 16, (o, i))
    formula = product(E2M1[nibbles(weight)], factor)

    def decoded(dtype: torch.dtype) -> torch.Tensor:
        if dtype == torch.bfloat16:
            return library("nvfp4-pack-quantized", tensors, **facts)
        return formula(dtype)

    return Case(tensors, compressed("nvfp4-pack-quantized", **facts), decoded)


CASES: dict[str, Callable[[], Case]] = {
    "fp8 blocks": lambda: fp8_block(40, 50),
    "fp8 blocks, bf16 scales": lambda: fp8_block(40, 48, dtype="bfloat16"),
    "fp8 blocks, powers of two": lambda: fp8_block(40, 48, ".scale", "e8m0"),
    "fp8 blocks, exponents as bytes": lambda: fp8_block(48, 48, dtype="uint8"),
    "fp8 blocks of compressed-tensors": lambda: fp8_block(33, 48, ".weight_scale", "bfloat16"),
    "fp8 channels": lambda: fp8_channel(24, 40),
    "fp8 channels, f32": lambda: fp8_channel(24, 40, "float32", flat=True),
    "fp8 groups": lambda: fp8_group(24, 48),
    "fp8 tensor": lambda: fp8_tensor(24, 40),
    "fp8 tensor of compressed-tensors": lambda: fp8_tensor(24, 40, (1,), "bfloat16"),
    "mxfp8": lambda: mxfp8(24, 64),
    "int4": lambda: packed_int(24, 64, shape_dtype="int32"),
    "int4, zero points": lambda: packed_int(20, 64, symmetric=False),
    "int4, channels": lambda: packed_int(20, 40, group=None, scale_dtype="float16"),
    "int4, channels, zero points": lambda: packed_int(20, 40, group=None, symmetric=False),
    "int4, in another order": lambda: packed_int(24, 64, group=16, ordered=False),
    "int4, odd last group": lambda: packed_int(20, 45, group=16, symmetric=False),
    "int4, odd last word": lambda: packed_int(20, 53, group=None),
    "int8 packed": lambda: packed_int(24, 64, bits=8),
    "int8 packed, odd": lambda: packed_int(22, 50, bits=8, group=16, symmetric=False),
    "int8": lambda: int8(24, 40),
    "int8, groups": lambda: int8(24, 48, symmetric=False, group=16),
    "int8, zero points": lambda: int8(24, 40, symmetric=False),
    "gptq": lambda: gptq(24, 64),
    "gptq, in another order": lambda: gptq(24, 64, ordered=False),
    "gptq v2": lambda: gptq(24, 64, version="gptq_v2"),
    "awq": lambda: awq(24, 64),
    "mxfp4 of gpt-oss": lambda: mxfp4_blocks(3, 24, 64),
    "mxfp4 of deepseek-v4": lambda: mxfp4_bytes(24, 64),
    "mxfp4 of compressed-tensors": lambda: mxfp4_packed(24, 64),
    "nvfp4 of modelopt": lambda: nvfp4(24, 64),
    "nvfp4 of compressed-tensors": lambda: nvfp4_packed(24, 64),
}

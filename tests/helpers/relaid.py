"""Quantized experts in every layout, by formulas over dictionaries of tensors.

A maker of `quantized.py` gives one matrix. Here are the tensors of a few experts in a layout, and
what none of it uses is a template.
"""

from collections.abc import Callable

import torch
from quantized import (
    Case,
    Tensors,
    awq,
    fp8_block,
    fp8_channel,
    fp8_tensor,
    gptq,
    int8,
    mxfp4_bytes,
    mxfp4_packed,
    mxfp8,
    nvfp4,
    nvfp4_packed,
    packed_int,
)

E, INNER, HIDDEN = 3, 32, 64
MLP = "model.layers.0.mlp.experts."
TURNED = (".qweight", ".qzeros", ".scales")
"""Companions in which inputs come before outputs."""
SUFFIXES = {
    ".weight": "",
    ".weight_scale": "_scale",
    ".weight_scale_inv": "_scale_inv",
    ".scale": ".scale",
    ".weight_scale_2": "_scale_2",
    ".weight_global_scale": "_global_scale",
    ".input_scale": "_input_scale",
    ".input_global_scale": "_input_global_scale",
    ".weight_packed": "_packed",
    ".weight_shape": "_shape",
    ".weight_zero_point": "_zero_point",
    ".weight_g_idx": "_weight_g_idx",
    ".qweight": ".qweight",
    ".qzeros": ".qzeros",
    ".scales": ".scales",
    ".g_idx": ".g_idx",
}
"""What is after the name of a fused or stacked weight, by what is after that of a single one."""
SINGLES = ("per-expert", "per-expert-fused", "projection-lists", "expert-lists")
STACKS = ("fused", "stacked")
BY_ROWS = (*SINGLES, *STACKS)
"""Layouts in which each row of a matrix stays a row."""


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as integers, which torch stacks and concatenates whatever the dtype."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.contiguous().view(kinds[tensor.element_size()])


def alike(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(like.dtype)


def join(ending: str, gate: torch.Tensor, up: torch.Tensor, rows: int = INNER) -> torch.Tensor:
    """Gate and up in one tensor: rows below rows, or side by side if there are no rows of them."""
    pair = [bits(gate), bits(up)]
    if ending in TURNED:
        return alike(torch.cat(pair, 1), gate)
    is_in_rows = gate.dim() == 2 or (gate.dim() == 1 and gate.shape == (rows,))
    if ending in (".weight_g_idx", ".g_idx", ".weight_shape") or not is_in_rows:
        return alike(torch.stack(pair), gate)
    return alike(torch.cat(pair, 0), gate)


def stack(tensors: list[torch.Tensor]) -> torch.Tensor:
    return alike(torch.stack([bits(each) for each in tensors]), tensors[0])


def turn(tensor: torch.Tensor) -> torch.Tensor:
    """The last two dimensions exchanged."""
    return alike(bits(tensor).transpose(-1, -2), tensor)


def flat(tensor: torch.Tensor) -> torch.Tensor:
    """The experts below one another."""
    return alike(bits(tensor).flatten(0, 1), tensor)


def weave(ending: str, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Rows of gate and up in turn."""
    return alike(torch.stack([bits(gate), bits(up)], 1).flatten(0, 1), gate)


Expert = dict[str, Case]
"""The matrices of one expert by the name of their projection."""


def experts(make: Callable[[int, int], Case]) -> list[Expert]:
    """Three experts whose tensors are all different."""
    shapes = {
        "gate_proj": (INNER, HIDDEN),
        "up_proj": (INNER, HIDDEN),
        "down_proj": (HIDDEN, INNER),
    }
    return [{name: make(*shape) for name, shape in shapes.items()} for _ in range(E)]


def relaid(made: list[Expert], layout: str) -> Tensors:
    """The tensors of experts in a layout."""
    tensors: Tensors = {}
    for ending, suffix in SUFFIXES.items():
        if ending not in made[0]["gate_proj"].tensors:
            continue
        gates, ups, downs = (
            [expert[name].tensors[ending] for expert in made]
            for name in ("gate_proj", "up_proj", "down_proj")
        )
        joined = [join(ending, gate, up) for gate, up in zip(gates, ups, strict=True)]
        for e in range(E):
            three = {"gate_proj": gates[e], "up_proj": ups[e], "down_proj": downs[e]}
            names = {
                "per-expert": {f"{e}.{name}": part for name, part in three.items()},
                "projection-lists": {f"{name}.{e}": part for name, part in three.items()},
                "per-expert-fused": {f"{e}.gate_up_proj": joined[e], f"{e}.down_proj": downs[e]},
                "expert-lists": {f"gate_up_projs.{e}": joined[e], f"down_projs.{e}": downs[e]},
            }
            tensors |= {f"{MLP}{n}{ending}": part for n, part in names.get(layout, {}).items()}
        if layout == "stacked":
            for name, parts in (("gate_proj", gates), ("up_proj", ups), ("down_proj", downs)):
                tensors[f"{MLP}{name}{suffix}"] = stack(parts)
        elif layout not in SINGLES:
            pair = {"gate_up_proj": stack(joined), "down_proj": stack(downs)}
            if layout == "fused-interleaved-rows":
                pair["gate_up_proj"] = stack(
                    [weave(ending, gate, up) for gate, up in zip(gates, ups, strict=True)]
                )
            if layout in ("fused-transposed", "fused-flat"):
                pair = {n: turn(part) if part.dim() > 2 else part for n, part in pair.items()}
            if layout == "fused-flat":
                pair = {name: flat(part) for name, part in pair.items()}
            tensors |= {f"{MLP}{name}{suffix}": part for name, part in pair.items()}
    return tensors


def decoded(made: list[Expert], dtype: torch.dtype) -> Tensors:
    """The values of experts, one by one."""
    return {
        f"{MLP}{e}.{name}.weight": case.decoded(dtype)
        for e, expert in enumerate(made)
        for name, case in expert.items()
    }


def with_index(o: int, i: int) -> Case:
    """int4 in the order of activations: compressed-tensors decodes it with its own index."""
    return packed_int(o, i, group=16, ordered=False)


TRANSPOSED = (*BY_ROWS, "fused-transposed", "fused-flat")
KINDS: dict[str, tuple[Callable[[int, int], Case], tuple[str, ...]]] = {
    "fp8 blocks": (fp8_block, TRANSPOSED),
    "fp8 blocks called scale": (lambda o, i: fp8_block(o, i, ".scale", "e8m0"), TRANSPOSED),
    "fp8 blocks called weight_scale": (lambda o, i: fp8_block(o, i, ".weight_scale"), TRANSPOSED),
    "fp8 channels": (fp8_channel, TRANSPOSED),
    "fp8 channels, flat": (lambda o, i: fp8_channel(o, i, flat=True), BY_ROWS),
    "fp8 tensor": (fp8_tensor, BY_ROWS),
    "fp8 tensor of one": (
        lambda o, i: fp8_tensor(o, i, (1,)),
        (*BY_ROWS, "fused-transposed"),
    ),
    "mxfp8": (mxfp8, TRANSPOSED),
    "int4": (packed_int, BY_ROWS),
    "int4, zero points": (lambda o, i: packed_int(o, i, symmetric=False), BY_ROWS),
    "int4, in another order": (with_index, BY_ROWS),
    "int8 packed": (
        lambda o, i: packed_int(o, i, bits=8, group=16, symmetric=False),
        BY_ROWS,
    ),
    "int8": (lambda o, i: int8(o, i, symmetric=False), TRANSPOSED),
    "gptq": (gptq, BY_ROWS),
    "gptq, in another order": (lambda o, i: gptq(o, i, group=16, ordered=False), BY_ROWS),
    "awq": (awq, BY_ROWS),
    "mxfp4 of deepseek-v4": (mxfp4_bytes, (*BY_ROWS, "fused-transposed")),
    "mxfp4 of compressed-tensors": (mxfp4_packed, BY_ROWS),
    "nvfp4 of modelopt": (nvfp4, BY_ROWS),
    "nvfp4 of compressed-tensors": (nvfp4_packed, BY_ROWS),
}
"""Makers of a matrix in each number format, and the layouts that such experts can have."""

"""How each layout stores a weight, written out by hand with numpy: never from a template."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

Array = npt.NDArray[Any]
Stored = list[tuple[str, dict[str, int], Array]]
"""The tensors of one weight: name below the prefix, position on the axes in it, content."""

LAYOUTS = (
    "per-expert",
    "fused",
    "fused-transposed",
    "fused-flat",
    "stacked",
    "fused-interleaved",
)
WEIGHTS = ("gate_up", "down", "gate_up_bias", "down_bias")
TOKENS = {"p": ("gate_proj", "up_proj"), "d": ("down_proj",)}
SIZE = st.integers(1, 13)
AXIS_SIZES = st.fixed_dictionaries({"e": SIZE, "i": SIZE, "h": SIZE})


def canonical(weight: str, sizes: dict[str, int], dtype: str) -> Array:
    """A weight whose values tell their coordinates, as far as the dtype can."""
    e, i, h = sizes["e"], sizes["i"], sizes["h"]
    shape = {
        "gate_up": (e, 2, i, h),
        "down": (e, h, i),
        "gate_up_bias": (e, 2, i),
        "down_bias": (e, h),
    }[weight]
    code = np.arange(math.prod(shape), dtype=np.uint64).reshape(shape)
    return (code % 251 if dtype == "u1" else code * 31 + 7).astype(dtype)


def stored(layout: str, weight: str, values: Array) -> Stored:
    """How a layout stores a weight whose axes are e p i h, e h i, e p i or e h."""
    experts = range(len(values))
    if layout == "per-expert":
        suffix = "bias" if weight.endswith("bias") else "weight"
        if weight.startswith("down"):
            return [
                (f"experts.{e}.down_proj.{suffix}", {"e": e, "d": 0}, values[e]) for e in experts
            ]
        return [
            (f"experts.{e}.{name}.{suffix}", {"e": e, "p": p}, values[e, p])
            for e in experts
            for p, name in enumerate(("gate_proj", "up_proj"))
        ]
    suffix = "_bias" if weight.endswith("bias") else ""
    if layout == "stacked":
        if weight.startswith("down"):
            return [(f"experts.down_proj{suffix}", {"d": 0}, values)]
        return [
            (f"experts.gate_proj{suffix}", {"p": 0}, values[:, 0]),
            (f"experts.up_proj{suffix}", {"p": 1}, values[:, 1]),
        ]
    if weight.startswith("down"):
        return [(f"experts.down_proj{suffix}", {}, _fused_down(layout, weight, values))]
    return [(f"experts.gate_up_proj{suffix}", {}, _fused_gate_up(layout, weight, values))]


def _fused_down(layout: str, weight: str, values: Array) -> Array:
    if weight == "down_bias" or layout == "fused":
        return values
    turned = np.stack([matrix.T for matrix in values])
    return np.vstack(list(turned)) if layout == "fused-flat" else turned


def _fused_gate_up(layout: str, weight: str, values: Array) -> Array:
    gate, up = values[:, 0], values[:, 1]
    if weight == "gate_up_bias":
        if layout == "fused-interleaved":
            woven = np.empty((len(gate), 2 * gate.shape[1]), values.dtype)
            woven[:, 0::2], woven[:, 1::2] = gate, up
            return woven
        return np.hstack([gate, up])
    if layout == "fused":
        return np.concatenate([gate, up], axis=1)
    gate, up = gate.swapaxes(1, 2), up.swapaxes(1, 2)
    if layout == "fused-interleaved":
        woven = np.empty((*gate.shape[:2], 2 * gate.shape[2]), values.dtype)
        woven[:, :, 0::2], woven[:, :, 1::2] = gate, up
        return woven
    halves = np.concatenate([gate, up], axis=2)
    return halves.reshape(-1, halves.shape[2]) if layout == "fused-flat" else halves


def all_sizes(sizes: dict[str, int]) -> dict[str, int]:
    return {**sizes, "p": 2, "d": 1}

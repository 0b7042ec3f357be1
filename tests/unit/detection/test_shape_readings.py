"""Names of tensors that leave open what they mean: the shapes tell."""

import pytest
from header_models import checkpoint_of

from streamconv.catalog.catalog import default_catalog
from streamconv.detection.detect import Detected, detect
from streamconv.errors import StreamconvError

MLP = "model.layers.0.mlp.experts."
Shape = tuple[int, ...]
Parts = dict[str, tuple[str, Shape, Shape]]
"""Dtype, and shape of gate and up and of down, by the end of the name."""


def found(parts: Parts) -> Detected:
    """Two experts that have all of these tensors for each projection."""
    tensors = {
        f"{MLP}{e}.{name}.{end}": (dtype, down if name == "down_proj" else gate)
        for end, (dtype, gate, down) in parts.items()
        for name in ("gate_proj", "up_proj", "down_proj")
        for e in range(2)
    }
    return detect(checkpoint_of(tensors), default_catalog())


FP8: Parts = {"weight": ("F8_E4M3", (64, 96), (96, 64))}


@pytest.mark.parametrize(
    ("gate", "down", "weight"),
    [
        ((64, 1), (96, 1), "gate_up_scale"),
        ((64, 3), (96, 2), "gate_up_scale"),
        ((2, 3), (3, 2), "gate_up_scale-blocks"),
        ((1, 1), (1, 1), "gate_up_scale-blocks"),
        ((64,), (96,), "gate_up_scale-vector"),
        ((1,), (1,), "gate_up_scale-one"),
        ((), (), "gate_up_scale-number"),
    ],
)
def test_what_a_scale_is(gate: Shape, down: Shape, weight: str) -> None:
    (stack,) = found({**FP8, "weight_scale": ("F32", gate, down)}).stacks
    assert list(stack.first) == ["gate_up", "down", weight, weight.replace("gate_up", "down")]


@pytest.mark.parametrize(
    ("dtype", "gate", "down", "weight"),
    [
        ("U8", (64, 48), (96, 32), "gate_up-halves"),
        ("I8", (64, 96), (96, 64), "gate_up"),
    ],
)
def test_what_codes_are(dtype: str, gate: Shape, down: Shape, weight: str) -> None:
    (stack,) = found({"weight": (dtype, gate, down)}).stacks
    assert next(iter(stack.first)) == weight


@pytest.mark.parametrize(
    "parts",
    [
        {"weight": ("BF16", (64, 48), (96, 32))},
        {"weight": ("U8", (64, 40), (96, 32))},
        {"qweight": ("I32", (12, 64), (9, 96))},
        {**FP8, "weight_scale": ("F32", (2,), (2,))},
    ],
)
def test_shapes_that_no_kind_has(parts: Parts) -> None:
    """Halves are of bytes alone, and everything counts as many positions as there are."""
    with pytest.raises(StreamconvError):
        found(parts)

"""The segments of a dimension: each is divided among the ranks of a tensor-parallel run."""

import pytest
from header_models import checkpoint_of, experts

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.layouts import NamedLayout
from streamconv.detection.detect import detect
from streamconv.planning.segments import segments_of, stored_segments

SIZES = {"e": 4, "p": 2, "d": 1, "i": 6, "h": 10}


def row(layout: str) -> NamedLayout:
    catalog = default_catalog()
    return NamedLayout(catalog.find_layout(layout), catalog.default_naming)


@pytest.mark.parametrize(
    ("layout", "axis", "lengths"),
    [
        ("fused", 0, (4,)),
        ("fused", 1, (6, 6)),  # a rank needs a part of gate and a part of up
        ("fused", 2, (10,)),
        ("fused-transposed", 2, (6, 6)),
        ("fused-interleaved", 2, (12,)),  # pairs of gate and up stay together
        ("fused-flat", 0, (40,)),
        ("per-expert-fused", 0, (6, 6)),
        ("per-expert", 0, (6,)),
    ],
)
def test_gate_and_up_are_segments_unless_they_alternate(
    layout: str, axis: int, lengths: tuple[int, ...]
) -> None:
    assert segments_of(row(layout), ["gate_up"], SIZES, axis) == lengths


def test_weights_of_one_tensor_are_segments_of_its_first_dimension() -> None:
    assert segments_of(row("stacked-flat"), ["gate_up", "down"], SIZES, 0) == (24, 24)
    assert segments_of(row("stacked-flat"), ["gate_up", "down"], SIZES, 1) == (10,)


def test_segments_of_a_stored_tensor() -> None:
    """None for a tensor that is no expert's."""
    prefix = "model.layers.0.mlp."
    tensors = experts(prefix, 4, 6, 10, "fused-transposed")
    found = detect(checkpoint_of(tensors), default_catalog(), "fused-transposed")
    assert stored_segments(found, f"{prefix}experts.gate_up_proj", 2) == (6, 6)
    assert stored_segments(found, "model.norm.weight", 0) is None

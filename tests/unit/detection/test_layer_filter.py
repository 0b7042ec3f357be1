"""Only layers with experts are layers; a range may be open."""

import pytest

from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.layer_filter import LayerFilter

PATHS = frozenset({"model.layers."})


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("model.layers.2.mlp.experts.0.up_proj.weight", True),
        ("model.layers.4.mlp.", False),
        ("visual.blocks.7.weight", True),
        ("lm_head.weight", True),
    ],
)
def test_layers_that_are_kept(name: str, kept: bool) -> None:
    assert LayerFilter(PATHS, range(1, 4)).keeps(name) is kept
    assert LayerFilter(PATHS, None).keeps(name)
    assert LayerFilter(frozenset(), range(1, 4)).keeps(name)


@pytest.mark.parametrize(
    ("layers", "none"), [(range(1, 4), False), (range(5, 10**12), True), (None, False)]
)
def test_no_layer_is_kept(layers: range | None, none: bool) -> None:
    """The end of a range may be far away; a name outside the layers does not count."""
    names = ["lm_head.weight", "model.layers.2.mlp.gate.weight"]
    assert LayerFilter(PATHS, layers).keeps_no_layer(names) is none
    assert not LayerFilter(frozenset(), layers).keeps_no_layer(names)


def test_tensors_that_are_kept() -> None:
    """In their order; all are the mapping that they are in."""
    names = [f"model.layers.{layer}.mlp.gate.weight" for layer in range(5)]
    tensors = {name: TensorInfo(name, "BF16", (2,), "model.safetensors", 0, 4) for name in names}
    assert list(LayerFilter(PATHS, range(1, 4)).kept(tensors)) == names[1:4]
    assert LayerFilter(PATHS, None).kept(tensors) is tensors

"""The number of experts of a layer: by config.json, and by the router if it has come."""

from typing import Any

import pytest

from streamconv.catalog.catalog import default_catalog
from streamconv.checkpoint.types import TensorInfo
from streamconv.relaying.routers import MAX_EXPERTS, Routers

PREFIX, OTHER = "model.layers.1.mlp.", "model.layers.2.mlp."


def router(prefix: str, experts: int) -> dict[str, TensorInfo]:
    name = f"{prefix}gate.weight"
    return {name: TensorInfo(name, "BF16", (experts, 8), "", 0, experts * 16)}


def routers(config: dict[str, Any], came: dict[str, TensorInfo]) -> Routers:
    family = default_catalog().find_family("qwen3_moe")
    return Routers({"model_type": "qwen3_moe", **config}, family, came)


def test_a_router_counts_as_soon_as_it_has_come() -> None:
    """It says how many there are in its own layer, whatever the config says; later ones count."""
    came: dict[str, TensorInfo] = {}
    found = routers({"num_experts": 6}, came)
    assert found.expert_counts(PREFIX) == (6,)
    came |= router(OTHER, 5)
    assert found.expert_counts(PREFIX) == (6,)
    came |= router(PREFIX, 4)
    assert found.expert_counts(PREFIX)[0] == 4


@pytest.mark.parametrize("count", [0, -1, MAX_EXPERTS + 1])
def test_a_number_that_no_layer_has_counts_as_none(count: int) -> None:
    assert routers({"num_experts": count}, {}).expert_counts(PREFIX) == ()


def test_routers_of_layers_are_each_named_once() -> None:
    came = router(PREFIX, 4) | router(OTHER, 4) | router("model.layers.3.mlp.", 4)
    found = routers({}, came).of_layers(PREFIX, OTHER, PREFIX)
    assert [info.name for info in found] == [f"{PREFIX}gate.weight", f"{OTHER}gate.weight"]

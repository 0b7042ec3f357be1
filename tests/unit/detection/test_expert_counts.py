"""How many experts there are: the router's rows, config.json, and which of them is believed."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from header_models import Tensors, checkpoint_of, experts

from streamconv.catalog.catalog import default_catalog
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.detect import Detected, detect
from streamconv.detection.expert_counts import ExpertCounts
from streamconv.detection.refusals import Refusals
from streamconv.errors import BadCheckpoint

Counts = dict[str, int]


def layers(counts: Counts, routers: Counts | None = None, layout: str = "per-expert") -> Tensors:
    """Experts by the prefix of their module; by default the routers have as many rows."""
    tensors: Tensors = {}
    for prefix, count in counts.items():
        tensors |= experts(prefix, count, 3, 5, layout)
    rows = counts if routers is None else routers
    return tensors | {f"{prefix}gate.weight": ("F32", (n, 5)) for prefix, n in rows.items()}


def model(*counts: int) -> Counts:
    return {f"model.layers.{number}.mlp.": count for number, count in enumerate(counts)}


def found(tensors: Tensors, config: dict[str, Any]) -> Detected:
    made = replace(checkpoint_of(tensors), config={"model_type": "qwen3_moe", **config})
    return detect(made, default_catalog())


def sizes(detected: Detected) -> list[tuple[str, int, int]]:
    return [(s.pattern, len(s.modules), s.sizes["e"]) for s in detected.stacks]


@pytest.mark.parametrize(
    "config",
    [{}, {"num_experts": 8}, {"num_experts": [8, 6, 7]}, {"model_type": "novel"}],
)
@pytest.mark.parametrize("layout", ["per-expert", "fused", "stacked"])
def test_pruned_layers_are_stacks_of_their_own(config: dict[str, Any], layout: str) -> None:
    """Their routers confirm each of them, whatever config.json has for all."""
    pattern = "model.layers.*.mlp."
    detected = found(layers(model(8, 6, 8, 7), layout=layout), config)
    assert sizes(detected) == [(pattern, 2, 8), (pattern, 1, 6), (pattern, 1, 7)]
    assert pattern in detected.counted


def test_without_routers_layers_have_to_be_alike() -> None:
    with pytest.raises(BadCheckpoint, match=r"layers\.1\.mlp\.experts has 6 .* has 8"):
        found(layers(model(8, 6), {}), {})


@pytest.mark.parametrize("config", [{}, {"num_experts": 6}, {"num_experts": 8}])
def test_experts_that_are_lost(config: dict[str, Any]) -> None:
    """The router has rows for them, even if config.json does not count any."""
    with pytest.raises(BadCheckpoint, match="holds 5 experts, and its router") as caught:
        found(layers(model(5, 5), model(6, 6)), config)
    assert "model.layers.0.mlp.gate.weight has 6 rows" in caught.value.message
    assert all(f"{key} = {count}" in caught.value.message for key, count in config.items())


@pytest.mark.parametrize("layout", ["per-expert", "fused", "stacked"])
def test_all_experts_of_a_layer_are_lost(layout: str) -> None:
    """A router without experts says so; a dense layer has none, and one of another size may be."""
    tensors = layers(model(8, 8), layout=layout)
    tensors["model.layers.2.mlp.gate.weight"] = ("F32", (4, 5))
    tensors["model.layers.3.mlp.gate_proj.weight"] = ("F32", (8, 5))
    assert sizes(found(tensors, {})) == [("model.layers.*.mlp.", 2, 8)]
    tensors["model.layers.4.mlp.gate.weight"] = ("F32", (8, 5))
    with pytest.raises(BadCheckpoint, match=r"layers\.4\.mlp\.experts is missing: .* 8 rows"):
        found(tensors, {})


def test_rows_for_other_experts() -> None:
    """The router of Inkling has some for shared experts: config.json confirms the others."""
    tensors = layers(model(5, 5), model(7, 7))
    assert sizes(found(tensors, {"num_experts": 5})) == [("model.layers.*.mlp.", 2, 5)]
    with pytest.raises(BadCheckpoint, match="has 4 rows"):
        found(layers(model(5), model(4)), {"num_experts": 5})


def test_a_router_that_is_stored_the_other_way_round() -> None:
    tensors = layers(model(4), {}) | {"model.layers.0.mlp.gate.weight": ("F32", (5, 4))}
    assert found(tensors, {}).counted
    tensors |= {"model.layers.0.mlp.gate.weight": ("F32", (5, 6))}
    with pytest.raises(BadCheckpoint, match="has 6 rows"):
        found(tensors, {})


def test_a_packed_router_says_nothing() -> None:
    tensors = layers(model(4), {}) | {"model.layers.0.mlp.gate.weight": ("U8", (7, 2))}
    assert not found(tensors, {}).counted


def test_all_that_config_json_says_is_named() -> None:
    """A router confirms one of two keys; without a router, neither is believed."""
    both = {"num_experts": 8, "n_routed_experts": 5}
    assert found(layers(model(5, 5)), both).counted
    with pytest.raises(BadCheckpoint) as caught:
        found(layers(model(5, 5), {}), both)
    assert "holds 5 experts" in caught.value.message
    assert "num_experts = 8 and n_routed_experts = 5" in caught.value.message
    with pytest.raises(BadCheckpoint) as caught:
        found(layers(model(6, 6)), both)
    assert "num_experts = 8 and n_routed_experts = 5" in caught.value.message
    assert "correct config.json" in caught.value.hint


def test_a_head_for_further_tokens_may_have_others() -> None:
    """Pruned experts of the model, and all of those of the head, as its router says."""
    counts = {**model(5, 5), "mtp.layers.0.mlp.": 8}
    config = {"model_type": "qwen3_next", "num_experts": 5}
    assert sizes(found(layers(counts), config)) == [
        ("model.layers.*.mlp.", 2, 5),
        ("mtp.layers.*.mlp.", 1, 8),
    ]
    with pytest.raises(BadCheckpoint, match="holds 5 experts"):
        found(layers(counts), {**config, "num_experts": 8})


def test_sizes_that_shapes_leave_open_come_from_the_router() -> None:
    """Of DBRX, whose shapes have experts times intermediate as one number."""
    prefix = "transformer.blocks.0.ffn."
    tensors: Tensors = {
        f"{prefix}experts.mlp.{name}": ("BF16", (4 * 3, 5)) for name in ("w1", "v1", "w2")
    }
    tensors[f"{prefix}router.layer.weight"] = ("F32", (4, 5))
    detected = found(tensors, {"model_type": "dbrx"})
    assert sizes(detected) == [("transformer.blocks.*.ffn.", 1, 4)]
    assert detected.stacks[0].sizes["i"] == 3
    with pytest.raises(BadCheckpoint, match="moe_num_experts = 6"):
        found(tensors, {"model_type": "dbrx", "ffn_config": {"moe_num_experts": 6}})


@pytest.mark.parametrize("layout", ["per-expert", "fused", "stacked"])
def test_a_router_shows_that_experts_are_transposed(layout: str) -> None:
    """It takes what gate and up take. Vectors of a third size are projected before the experts."""
    prefix = "model.layers.0.mlp."
    router = f"{prefix}gate.weight"
    transposed = experts(prefix, 4, 5, 3, layout)
    with pytest.raises(
        BadCheckpoint, match=r"hidden size 3 .* \[4, 5\]: .* are transposed"
    ) as caught:
        found({**transposed, router: ("F32", (4, 5))}, {})
    assert "--family" in caught.value.hint
    latent = found({**transposed, router: ("F32", (4, 7))}, {})
    assert sizes(latent) == [("model.layers.*.mlp.", 1, 4)]


def test_a_router_of_projected_experts_shows_no_orientation() -> None:
    """NemotronHMoE of transformers: the experts take what fc1 makes, and the router what it takes.

    Here the hidden size is the intermediate size of the experts.
    """
    prefix = "backbone.layers.0.mixer."
    tensors: Tensors = {
        f"{prefix}gate.weight": ("F32", (4, 32)),
        f"{prefix}fc1_latent_proj.weight": ("F32", (16, 32)),
        f"{prefix}fc2_latent_proj.weight": ("F32", (32, 16)),
    }
    for expert in range(4):
        tensors[f"{prefix}experts.{expert}.up_proj.weight"] = ("F32", (32, 16))
        tensors[f"{prefix}experts.{expert}.down_proj.weight"] = ("F32", (16, 32))
    detected = found(tensors, {"model_type": "nemotron_h", "n_routed_experts": 4})
    assert sizes(detected) == [("backbone.layers.*.mixer.", 1, 4)]
    apart = {name: each for name, each in tensors.items() if "latent" not in name}
    with pytest.raises(BadCheckpoint, match="are transposed"):
        found(apart, {"model_type": "nemotron_h", "n_routed_experts": 4})


class Names(dict[str, TensorInfo]):
    """Tensors by name, which count how often all names are gone through."""

    passes = 0

    def __iter__(self) -> Iterator[str]:
        self.passes += 1
        return super().__iter__()


@pytest.mark.parametrize("projects", [False, True])
def test_the_work_grows_with_the_tensors_only(projects: bool) -> None:
    """Thousands of stacks of one module each would go through all names once for each of them.

    With a projection, the router of each takes vectors as long as the outputs of gate and up.
    """
    prefixes = [f"part{number}x." for number in range(50)]
    tensors = layers(dict.fromkeys(prefixes, 2))
    if projects:
        for prefix in prefixes:
            tensors[f"{prefix}gate.weight"] = ("F32", (2, 3))
            tensors[f"{prefix}fc1_latent_proj.weight"] = ("F32", (5, 3))
    detected = found(tensors, {"model_type": "novel"})
    assert len(detected.stacks) == 50
    names = Names(detected.hub_names)
    counted = ExpertCounts({}, None, names).check(detected.stacks, Refusals(collects=False))
    assert len(counted) == (0 if projects else 50)
    assert names.passes <= 1

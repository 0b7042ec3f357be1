"""A small checkpoint of experts in memory, and what it is in another layout."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from memory_source import MemorySource

from streamconv.catalog.catalog import default_catalog
from streamconv.planning.build import build_plan
from streamconv.planning.plan import Plan

Array = npt.NDArray[np.uint16]
LAYERS, EXPERTS, INTERMEDIATE, HIDDEN = 2, 3, 6, 10


def hub_tensors() -> dict[str, Array]:
    """Return BF16 bits as on the hub: gate, up `[I, H]` and down `[H, I]` of each expert."""
    random = np.random.default_rng(7)
    shapes: dict[str, tuple[int, ...]] = {"model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        for expert in range(EXPERTS):
            prefix = f"model.layers.{layer}.mlp.experts.{expert}"
            shapes[f"{prefix}.gate_proj.weight"] = (INTERMEDIATE, HIDDEN)
            shapes[f"{prefix}.up_proj.weight"] = (INTERMEDIATE, HIDDEN)
            shapes[f"{prefix}.down_proj.weight"] = (HIDDEN, INTERMEDIATE)
    return {
        name: random.integers(0, 2**16, shape, dtype=np.uint16) for name, shape in shapes.items()
    }


def fused_transposed(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return the same tensors as `fused-transposed` has them, by a formula over whole arrays."""
    fused = {"model.norm.weight": tensors["model.norm.weight"]}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}.mlp.experts"
        gate, up, down = (
            np.stack([tensors[f"{prefix}.{k}.{name}.weight"].T for k in range(EXPERTS)])
            for name in ("gate_proj", "up_proj", "down_proj")
        )
        fused[f"{prefix}.gate_up_proj"] = np.concatenate([gate, up], 2)
        fused[f"{prefix}.down_proj"] = down
    return fused


def source_of(tensors: Mapping[str, Array]) -> MemorySource:
    """Return a source of these tensors."""
    contents = {name: ("BF16", array.shape, array.tobytes()) for name, array in tensors.items()}
    return MemorySource(contents, config={"model_type": "qwen3_moe"})


def plan_of(source: MemorySource, **options: Any) -> Plan:
    """Return the plan of its conversion to `fused-transposed`, in several shards."""
    options = {"max_shard_size": 900, **options}
    return build_plan(source.checkpoint, default_catalog(), "fused-transposed", options)  # type: ignore[arg-type]

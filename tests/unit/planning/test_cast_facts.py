"""The facts of many casts are made one by one."""

import tracemalloc
from typing import Any

import pytest
from header_models import checkpoint_of, model

from streamconv.catalog.catalog import default_catalog
from streamconv.options import Options
from streamconv.planning.build import build_plan
from streamconv.planning.manifest import fingerprint, plan_facts


@pytest.mark.parametrize("cast", [{"dtype": "fp16"}, {"quantize": "fp8-channel"}])
def test_casts_take_few_bytes(cast: dict[str, Any]) -> None:
    """There may be hundreds of thousands, and their facts are looked at one by one."""
    checkpoint = checkpoint_of(model(layers=1, e=400, i=8, h=8))
    whole = build_plan(checkpoint, default_catalog(), "fused", Options(**cast))
    tracemalloc.start()
    casts = plan_facts(whole)["casts"]
    fingerprint(whole)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(casts) > 1200
    assert peak < 200 * len(casts)
    if "dtype" in cast:
        assert casts["model.layers.1.mlp.experts.0.up_proj.weight"] == ["F16", "BF16", None, []]

"""The form or layout that merging makes of a checkpoint, with the reason."""

import pytest
from header_models import checkpoint_of, experts

from streamconv.catalog.catalog import default_catalog
from streamconv.detection.detect import detect
from streamconv.planning.merge_target import merge_target
from streamconv.planning.target import resolve_target

PREFIX = "model.layers.0.mlp."
PATTERN = "model.layers.*.mlp."


@pytest.mark.parametrize(
    ("model_type", "asked", "why"),
    [
        ("qwen3_moe", "fused", "what merging makes of qwen3_moe"),
        ("a_model_of_tomorrow", "fused", "model type a_model_of_tomorrow is in no family"),
        ("", "fused", "config.json has no model type"),
    ],
)
def test_what_merging_makes(model_type: str, asked: str, why: str) -> None:
    found = detect(checkpoint_of(experts(PREFIX, 3, 4, 6), model_type), default_catalog())
    target, reason = merge_target(found)
    assert reason == why
    resolved = resolve_target(found, target, reason)
    assert resolved.rows[PATTERN].layout.name == asked
    assert (resolved.asked, resolved.why) == (target, why)

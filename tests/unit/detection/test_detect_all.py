"""As much of a checkpoint as there is, with every reason why experts cannot be converted."""

from dataclasses import replace

import pytest
from header_models import checkpoint_of, experts

from streamconv.catalog.catalog import default_catalog
from streamconv.checkpoint.layout_record import Record
from streamconv.detection.detect_all import WHOLE, detect_all
from streamconv.errors import UsageError

EXPERTS = experts("model.layers.0.mlp.", 2, 3, 5)


def test_sound_stacks_and_reasons_of_others() -> None:
    broken = experts("mtp.layers.0.mlp.", 2, 3, 5)
    del broken["mtp.layers.0.mlp.experts.1.up_proj.weight"]
    found = detect_all(checkpoint_of({**EXPERTS, **broken}), default_catalog())
    assert [stack.pattern for stack in found.stacks] == ["model.layers.*.mlp."]
    (pattern, refusal) = next(iter(found.refusals.items()))
    assert pattern == "mtp.layers.*.mlp."
    assert "up_proj.weight is missing" in refusal.message


def test_a_record_of_what_is_not_known() -> None:
    """It is a reason for the whole checkpoint; experts and model type are shown nevertheless."""
    recorded = replace(checkpoint_of(EXPERTS), record=Record("of-nobody", None, {}))
    found = detect_all(recorded, default_catalog())
    assert "of-nobody" in found.refusals[WHOLE].message
    assert (len(found.stacks), found.model_type) == (1, "qwen3_moe")


def test_a_layout_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match="fuzed"):
        detect_all(checkpoint_of(EXPERTS), default_catalog(), "fuzed")

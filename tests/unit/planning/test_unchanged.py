"""A conversion is refused if its output would be its input, and only then."""

from dataclasses import replace
from typing import Any

import pytest
from header_models import checkpoint_of, experts, model, planned

from streamconv.catalog.catalog import default_catalog
from streamconv.checkpoint.types import AppliedRename
from streamconv.errors import PlanRefused
from streamconv.formats.json_edit import REMOVED, Edit
from streamconv.planning.build import build_plan
from streamconv.planning.config_change import ConfigChange
from streamconv.planning.plan import Plan
from streamconv.planning.unchanged import check_changed

SAME = planned(model(), "hub")
"""What is on the hub, in the form of the hub."""


def with_checkpoint(**changes: Any) -> Plan:
    return replace(SAME, checkpoint=replace(SAME.checkpoint, **changes))


@pytest.mark.parametrize(
    ("plan", "options", "state"),
    [
        (SAME, {}, "in the form hub"),
        (SAME, {"dtype": "bf16"}, "in the form hub, in bf16"),
        (SAME, {"format": "safetensors"}, "in the form hub, in safetensors"),
        (planned(model(), "per-expert"), {}, "per-expert"),
        (planned(model(), "same"), {}, "as it would be written"),
        (planned(model(layers=0), "hub"), {}, "in the form hub, as it holds no experts"),
    ],
)
def test_an_output_that_would_be_the_input(plan: Plan, options: Any, state: str) -> None:
    """The message says what the checkpoint is already, in the words of what was asked for."""
    with pytest.raises(PlanRefused) as caught:
        check_changed(plan, options)
    assert caught.value.message == (
        f"cannot convert /nowhere/at/all: it is already {state}: nothing to convert"
    )
    assert "--copy" in caught.value.hint


def test_a_copy_that_is_asked_for() -> None:
    check_changed(SAME, {"copy": True})


@pytest.mark.parametrize(
    ("plan", "options"),
    [
        (planned(model(), "fused"), {}),
        (planned(model(layout="fused"), "hub", declared_layout="fused"), {}),
        (planned(model(), "hub", layers=range(1, 2)), {}),
        (SAME, {"max_shard_size": "4GB"}),
        (with_checkpoint(format="dcp"), {}),
        (with_checkpoint(renames=(AppliedRename("a=b", 1),)), {}),
        (with_checkpoint(added=("x.safetensors",)), {}),
        (with_checkpoint(unindexed=("a",)), {}),
        (replace(SAME, config=ConfigChange((Edit(("dtype",), REMOVED),))), {}),
    ],
)
def test_an_output_that_differs(plan: Plan, options: Any) -> None:
    """In layouts, tensors, files, format, names or config; the files count only if asked for."""
    check_changed(plan, options)


def test_a_plan_of_a_user_is_checked() -> None:
    """`build_plan` makes the check, and leaves it out for a copy."""
    source = checkpoint_of(experts("model.layers.0.mlp.", 3, 4, 6))
    with pytest.raises(PlanRefused, match="nothing to convert"):
        build_plan(source, default_catalog(), "hub", {})
    build_plan(source, default_catalog(), "hub", {"copy": True})

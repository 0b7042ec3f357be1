"""Casts leave the routers of every family, and what transformers keeps in fp32: by its modules."""

import dataclasses
import re
from typing import Any

import pytest
from family_models import EXPERTS, model_types, without_weights
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.families import Family
from streamconv.checkpoint.protected_tensors import KEPT_IN_FP32, protected_kind

KNOWN = [name for name in model_types() if name in CONFIG_MAPPING]
GATES = "mlp.shared_expert_gate.weight"
"""No router, but left by casts like one."""


SHARED = {"inkling_mm_model": 2}
"""Shared experts that the router of a model has rows for."""


def routers(model: Any) -> set[str]:
    """The tensors outside of experts that have a row or an element for each expert.

    No other tensor of these models is as long as there are experts.
    """
    shared = SHARED.get(model.config.model_type, 0)
    experts = {
        f"{path}."
        for path, module in model.named_modules()
        if "Experts" in type(module).__name__ and "Router" not in type(module).__name__
    }
    return {
        name
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and tensor.ndim in (1, 2)
        if tensor.shape[0] == EXPERTS + shared or tensor.numel() == EXPERTS
        if not name.startswith(tuple(experts))
    }


def kept_in_fp32(model: Any) -> set[str]:
    """The tensors that transformers keeps in fp32, by the rule of its loader."""
    parts = model._keep_in_fp32_modules_strict or ()
    fitting = re.compile("|".join(rf"((^|\.){part}($|\.))" for part in parts) or "(?!)")
    return {
        name
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and fitting.search(name)
    }


def hub_name(family: Family, name: str) -> str:
    """The name on the hub of a tensor that transformers calls `name`."""
    form = family.forms.get("transformers")
    return form.undo(name) if form else name


@pytest.mark.parametrize("model_type", KNOWN)
def test_routers_and_what_stays_in_fp32(model_type: str) -> None:
    """By the names of both forms, and no other tensor is called a router."""
    family = default_catalog().find_family(model_type)
    assert family is not None
    assert family.routers, f"{family.name} has no row for its routers"
    model = without_weights(model_type)
    expected = routers(model)
    assert expected
    wrong = {}
    for name in model.state_dict():
        for each in {name, hub_name(family, name)}:
            kind = protected_kind(each, family)
            if (name in expected or name.endswith(GATES)) != (kind == "router"):
                wrong[each] = kind
    assert wrong == {}
    cast = [name for name in kept_in_fp32(model) if protected_kind(name, family) is None]
    assert cast == []


@pytest.mark.parametrize("model_type", KNOWN)
def test_the_table_knows_the_routers_of_types_without_a_row(model_type: str) -> None:
    """It is for unlisted types, whose routers have names that others have, too."""
    family = default_catalog().find_family(model_type)
    assert family is not None
    unlisted = dataclasses.replace(family, routers=(), fp32=())
    for name in routers(without_weights(model_type)):
        assert protected_kind(name, unlisted) == "router", name


def test_parts_of_names_are_whole_words() -> None:
    """`sinks` is no `sinks_of_something`."""
    family = default_catalog().find_family("flint")
    assert protected_kind("model.layers.0.self_attn.sinks", family) == KEPT_IN_FP32
    assert protected_kind("model.layers.0.self_attn.sinks_scale_factor", family) is None
    assert protected_kind("model.layers.0.self_attn.sinks") is None

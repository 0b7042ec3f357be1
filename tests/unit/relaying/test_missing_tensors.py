"""When a stream has ended, the tensors that did not arrive are named."""

from collections.abc import Iterable

import pytest
import torch
from header_models import experts

from streamconv.catalog.catalog import default_catalog
from streamconv.errors import BadCheckpoint
from streamconv.relaying.headers import tensor_info
from streamconv.relaying.missing_tensors import MAX_LISTED, check_complete
from streamconv.relaying.modules import ModuleFinder
from streamconv.relaying.open_module import OpenExperts, OpenGroup, OpenModule
from streamconv.relaying.planner import Planner
from streamconv.relaying.request import RelayRequest
from streamconv.relaying.used_names import UsedNames

MLP = "model.layers.0.mlp."


def planner(count: int) -> Planner:
    config = {"model_type": "qwen3_moe", "num_experts": count}
    return Planner(RelayRequest(None, "fused", config, False, 1), default_catalog())


def check(names: Iterable[str], count: int, groups: Iterable[OpenGroup] = ()) -> None:
    """Check experts of which only these tensors have arrived."""
    shapes = experts(MLP, count, 4, 6)
    at = OpenExperts(OpenModule(MLP, views=False))
    used, finder = UsedNames(), ModuleFinder(default_catalog(), planner(count).family)
    for name in names:
        tensor = torch.zeros(shapes[name][1])
        info = tensor_info(name, tensor)
        used.take(name, info)
        at.module.waiting[name.removeprefix(MLP)] = info, tensor
        found = finder.expert(name, info)
        assert found is not None
        at.found.setdefault(found[1].name, (found[1], info))
    check_complete({MLP: at} if at.found else {}, groups, used, planner(count))


def test_nothing_is_missing_without_experts_and_groups() -> None:
    check([], 2)


def test_the_missing_tensors_are_named() -> None:
    names = [name for name in experts(MLP, 2, 4, 6) if "1.down" not in name]
    with pytest.raises(
        BadCheckpoint, match=r": 1 tensor is missing at the end: .*experts.1.down_proj"
    ):
        check(names, 2)


def test_many_missing_tensors_are_listed_by_patterns() -> None:
    count = MAX_LISTED
    names = [name for name in experts(MLP, count, 4, 6) if ".0." in name[len(MLP) :]]
    with pytest.raises(BadCheckpoint, match=r"experts\.\*\.up_proj\.weight \(63\)"):
        check(names, count)


def test_tensors_of_groups_are_missing_too() -> None:
    group = OpenGroup(OpenModule("a.", views=False), {"a.conv"})
    with pytest.raises(BadCheckpoint, match=r"1 tensor is missing at the end: a\.conv"):
        check([], 2, [group])

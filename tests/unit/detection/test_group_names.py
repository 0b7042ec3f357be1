"""The tensors of groups are found by their names, in the layout that they are stored in."""

import pytest

from streamconv.catalog.groups import read_group
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.group_names import GroupTensors, companions_of_groups, groups_of

GROUP = read_group(
    {
        "where": "model.layers.*.attn.",
        "hub_name": "{q}_conv.{n}.weight : c",
        "form_name": "conv.weight : (q n c)",
        "q": ["query", "key"],
        "sizes": {"n": 3},
    }
)
HUB, FORM = (GroupTensors({GROUP: row}) for row in (GROUP.hub_layout, GROUP.form_layout))


@pytest.mark.parametrize(
    ("name", "position"),
    [
        ("model.layers.7.attn.query_conv.0.weight", (0, 0)),
        ("model.layers.7.attn.key_conv.12.weight", (1, 12)),
        ("model.layers.7.attn.value_conv.0.weight", None),
        ("model.layers.7.attn.query_conv.01.weight", None),
        ("model.layers.7.attn.query_conv.0.weight_scale", None),
        ("model.layers.7.mlp.query_conv.0.weight", None),
        ("model.layers.7.attn.conv.weight", None),
    ],
)
def test_names_on_the_hub(name: str, position: tuple[int, ...] | None) -> None:
    """The position has what the naming lists, and numbers as they are."""
    found = HUB.find(name)
    assert (found and found.position) == position
    if found is not None:
        assert (found.group, found.prefix) == (GROUP, "model.layers.7.attn.")


def test_names_in_the_form() -> None:
    found = FORM.find("model.layers.7.attn.conv.weight")
    assert found is not None
    assert (found.template, found.position) == ("conv.weight", ())
    assert FORM.find("model.layers.7.attn.query_conv.0.weight") is None


def test_companions_are_those_of_a_group_and_of_no_other() -> None:
    prefix = "model.layers.0.attn."
    names = [
        f"{prefix}query_conv.0.weight",
        f"{prefix}query_conv.0.weight_scale",
        f"{prefix}o_proj.weight_scale",
    ]
    infos = {name: TensorInfo(name, "F32", (4,), "", 0, 16) for name in names}
    found = companions_of_groups(infos, {GROUP: GROUP.hub_layout})
    assert [(group, info.name) for group, info in found] == [(GROUP, names[1])]
    assert list(companions_of_groups(infos, {})) == []


def test_no_forms_have_no_groups() -> None:
    assert groups_of({}) == ()


def test_a_companion_that_is_a_part_itself_moves_with_its_group() -> None:
    parts = [
        {"hub_name": f"a.{word} : c", "form_name": f"b.{word} : c"}
        for word in ("weight", "weight_scale")
    ]
    group = read_group({"where": "m.", "parts": parts})
    infos = {
        name: TensorInfo(name, "F32", (4,), "", 0, 16)
        for name in ("m.a.weight", "m.a.weight_scale")
    }
    assert list(companions_of_groups(infos, {group: group.hub_layout})) == []

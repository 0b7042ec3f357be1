"""Kinds of weights: what a layout has a place for."""

import pytest

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.layouts import Layout
from streamconv.catalog.templates import Template
from streamconv.catalog.weight_kinds import check_weight_rows, read_weight_kinds
from streamconv.errors import UsageError

CATALOG = default_catalog()


def names_of(layout: Layout, weight: str) -> str | None:
    template = layout.templates.get(weight)
    return str(template) if template else None


@pytest.mark.parametrize(
    ("layout", "weight", "expected"),
    [
        ("per-expert", "gate_up_scale-number", "experts.{e}.{p}.weight_scale :"),
        ("per-expert-fused", "gate_up_scale-number", "experts.{e}.gate_up_proj.weight_scale : p"),
        ("fused", "gate_up_scale-number", "experts.gate_up_proj_scale : e p"),
        ("fused", "down_scale-number", "experts.down_proj_scale : e"),
        ("fused", "gate_up_scale-one", "experts.gate_up_proj_scale : e p u"),
        ("stacked", "gate_up_scale_2", "experts.{p}_scale_2 : e"),
        ("fused-transposed", "gate_up_scale-one", "experts.gate_up_proj_scale : e u p"),
        ("fused-transposed", "gate_up_scale-number", None),
        ("interleaved", "gate_up_scale-number", None),
        ("fused-flat", "gate_up_scale-number", None),
        ("stacked-flat", "gate_up_scale-number", None),
        ("fused", "gate_up-halves", "experts.gate_up_proj : e (p i) h2"),
        ("fused-transposed", "gate_up-halves", "experts.gate_up_proj : e h2 (p i)"),
        ("fused-flat", "gate_up-halves", None),
        ("fused", "gate_up_scale-shared", "experts.gate_up_proj_scale :"),
        ("fused", "gate_up_scale-shared-one", "experts.gate_up_proj_scale : u"),
        ("fused-interleaved", "gate_up-halves", "experts.gate_up_proj : e h2 (i p)"),
        ("per-expert", "gate_up_scale-shared", None),
        ("fused", "gate_up.qweight", "experts.gate_up_proj.qweight : e h8 (p i)"),
        ("fused", "down.qzeros", "experts.down_proj.qzeros : e q h8"),
        ("fused", "gate_up.g_idx", "experts.gate_up_proj.g_idx : e p h"),
        ("fused-transposed", "gate_up.qweight", None),
        ("stacked-flat", "gate_up.qweight", None),
    ],
)
def test_the_place_of_a_kind(layout: str, weight: str, expected: str | None) -> None:
    """Its axes follow from those of the matrix, unless the shape would not tell what it is for."""
    assert names_of(CATALOG.layouts[layout], weight) == expected


@pytest.mark.parametrize(
    ("shared", "own", "layout"),
    [
        ("_scale-shared", "_scale-number", "per-expert"),
        ("_scale-shared", "_scale-number", "stacked"),
        ("_scale-shared", "_scale-shared", "fused-transposed"),
        ("_scale-shared-one", "_scale-one", "per-expert"),
        ("_scale-each", "_scale-number", "per-expert"),
        ("_scale-each", "_scale-each", "per-expert-fused"),
        ("_scale_2-shared", "_scale_2", "per-expert"),
        ("_scale-shared", None, "interleaved"),
    ],
)
def test_shared_numbers_have_places_apart(shared: str, own: str | None, layout: str) -> None:
    """Gate_up and down both are of the other kind, though one of them could stay."""
    source, target = CATALOG.layouts["fused"], CATALOG.layouts[layout]
    places = target.places([f"gate_up{shared}", f"down{shared}", "down"], source)
    same = {f"{matrix}{shared}": f"{matrix}{own or shared}" for matrix in ("gate_up", "down")}
    assert places == {**same, "down": "down"}


def test_a_row_has_a_kind_for_each_shape() -> None:
    shapes = {"all": {}, "rows": {"gate_up": {"h": ""}, "down": {"i": ""}, "sizes": {"u": 1}}}
    row = {"part": "weight_x", "suffix": "_x", "shapes": ["all", "rows"]}
    first, second = read_weight_kinds("x", row, shapes)
    assert (first.key, second.key, dict(second.sizes)) == ("_x", "_x-rows", {"u": 1})
    matrix = Template.parse("experts.{e}.{p}.weight : i h")
    assert str(first.template("gate_up", matrix)) == "experts.{e}.{p}.weight_x : i h"
    assert str(second.template("gate_up", matrix)) == "experts.{e}.{p}.weight_x : i"


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(UsageError, match="there is no shape called round"):
        list(read_weight_kinds("x", {"part": "x", "shapes": ["round"]}, {}))


def test_two_rows_of_one_name_are_refused() -> None:
    rows = {"a": {"part": "x", "suffix": "_a"}, "b": {"part": "x", "suffix": "_b"}}
    with pytest.raises(UsageError, match="they have the part 'x', as 'a' has"):
        check_weight_rows(rows)

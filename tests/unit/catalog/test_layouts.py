"""The tables of layouts, namings and families: they load, and no row is mistaken for another."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.layouts import Layout, NamedLayout
from streamconv.catalog.weight_kinds import MATRICES
from streamconv.errors import UsageError

CATALOG = default_catalog()

LOOKALIKES = {
    frozenset({"fused-transposed", "fused-interleaved"}),
    frozenset({"expert-lists", "expert-lists-interleaved"}),
}
"""Layouts that have the same names and shapes, and other bytes: what has to be recorded."""

LAYOUT_NAMES = [
    "per-expert",
    "fused",
    "fused-transposed",
    "fused-flat",
    "stacked",
    "stacked-flat",
    "fused-interleaved",
    "per-expert-fused",
    "projection-lists",
    "expert-lists",
    "expert-lists-interleaved",
    "interleaved",
    "nemo",
]
SIZE = st.integers(1, 64)
AXES = {
    "matrix": ("e p i h", "e h i"),
    "halves": ("e p i h2", "e h i2"),
    "outputs": ("e p i", "e h"),
    "vector": ("e p i", "e h"),
    "inputs": ("e p h", "e i"),
    "groups": ("e p i g", "e h q"),
    "blocks": ("e p j k", "e j k"),
    "number": ("e p", "e"),
    "one": ("e p u", "e u"),
    "pair": ("e p n", "e n"),
    "each": ("e u v", "e u v"),
    "shared": ("", ""),
    "shared-one": ("u", "u"),
    "packed": ("e p i g8", "e h q8"),
    "eighths": ("e p i8 g", "e h8 q"),
    "quarters": ("e p i4 g", "e h4 q"),
    "turned-inputs": ("e p i h8", "e h i8"),
    "turned-outputs": ("e p i8 h", "e h8 i"),
    "turned-groups-outputs": ("e p i8 g", "e h8 q"),
    "turned-groups": ("e p i g", "e h q"),
    "mxfp4": ("e p i g b", "e h q b"),
}
"""The axes of gate_up and down by the shape of a weight."""
FIRST_SHAPES = {
    "": "matrix",
    "_bias": "outputs",
    "_scale_inv": "blocks",
    "_scale": "groups",
    ".scale": "groups",
    "_scale_2": "number",
    "_global_scale": "one",
    "_zero_point": "groups",
    "_input_scale": "number",
    "_input_global_scale": "one",
    "_input_zero_point": "one",
    "_output_scale": "number",
    "_activation_scale": "number",
    "_qscale_weight": "number",
    "_qscale_act": "number",
    "_packed": "packed",
    "_shape": "pair",
    "_weight_g_idx": "inputs",
    ".qweight": "turned-inputs",
    ".qzeros": "turned-groups-outputs",
    ".scales": "turned-groups",
    ".g_idx": "inputs",
    "_blocks": "mxfp4",
    "_scales": "groups",
}


def names_and_shapes(layout: Layout, sizes: dict[str, int]) -> set[tuple[str, tuple[int, ...]]]:
    """The required tensors of a stack, the expert's number and the projection left open."""
    templates = (layout.templates[weight] for weight in MATRICES)
    return {(template.name, template.shape(sizes)) for template in templates}


# --- layouts -----------------------------------------------------------------------------------


def test_the_table_of_layouts() -> None:
    """The rows of the table, in its order; every one has both weights, and says who uses it."""
    assert list(CATALOG.layouts) == LAYOUT_NAMES
    for name, layout in CATALOG.layouts.items():
        assert layout.name == name
        assert layout.used_by
        assert set(MATRICES) <= set(layout.templates)
        assert CATALOG.find_layout(name) is layout


def test_every_weight_has_its_axes() -> None:
    """Gate_up has e p i h, down e i h and may have d, others those of their shape, each once."""
    for layout in CATALOG.layouts.values():
        for weight, template in layout.templates.items():
            axes = [*template.name_axes, *template.axes]
            assert len(axes) == len(set(axes))
            suffix, _, shape = weight.removeprefix("gate_up").removeprefix("down").partition("-")
            gate_up, down = AXES[shape or FIRST_SHAPES[suffix]]
            expected = set(gate_up.split()) if weight.startswith("gate_up") else set(down.split())
            assert set(axes) - {"d"} == expected, (layout.name, weight)


def test_an_unknown_layout_is_refused() -> None:
    """The error lists those there are."""
    with pytest.raises(UsageError) as caught:
        CATALOG.find_layout("merged")
    assert "merged" in caught.value.message
    assert all(name in caught.value.hint for name in LAYOUT_NAMES)


@settings(deadline=None, max_examples=60)
@given(e=SIZE, i=SIZE, h=SIZE, alike=st.sampled_from(["", "H = I", "H = 2 I"]))
def test_layouts_differ_in_names_or_shapes(e: int, i: int, h: int, alike: str) -> None:
    """Only the known pairs look alike, whatever the sizes: never are both weights square."""
    h = {"": h, "H = I": i, "H = 2 I": 2 * i}[alike]
    sizes = {"e": e, "p": 2, "d": 1, "i": i, "h": h}
    for one, other in itertools.combinations(CATALOG.layouts.values(), 2):
        same = names_and_shapes(one, sizes) == names_and_shapes(other, sizes)
        assert same == (frozenset({one.name, other.name}) in LOOKALIKES)


# --- namings and what names can mean -----------------------------------------------------------


def test_the_table_of_namings() -> None:
    """Two projections are fused in their order, one is not; no two namings share a name."""
    assert next(iter(CATALOG.namings)) == "qwen"
    assert CATALOG.namings["qwen"].tokens == {
        "p": ("gate_proj", "up_proj"),
        "d": ("down_proj",),
    }
    assert CATALOG.namings["mixtral"].tokens == {"p": ("w1", "w3"), "d": ("w2",)}
    auto_detect = [naming for naming in CATALOG.namings.values() if naming.auto_detect]
    everything = [t for naming in auto_detect for ts in naming.tokens.values() for t in ts]
    assert len(everything) == len(set(everything)) == 3 * len(auto_detect)


def test_experts_are_numbered_and_projections_named() -> None:
    """Tokens of the axes in a name."""
    row = NamedLayout(CATALOG.layouts["per-expert"], CATALOG.namings["fc"])
    assert [row.token("e", k) for k in (9, 10)] == ["9", "10"]
    assert [row.token(*at) for at in (("p", 0), ("p", 1), ("d", 0))] == ["fc1", "fc3", "fc2"]
    assert row.sizes() == {"p": 2, "d": 1}

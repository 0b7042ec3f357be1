"""The tables of layouts, namings and families: they load, and no row is mistaken for another."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.families import FORMS, HUB_NAMES, Family, Form, Rename
from streamconv.catalog.layouts import MATRICES, Layout, NamedLayout
from streamconv.errors import UsageError

CATALOG = default_catalog()

LOOKALIKES = {frozenset({"fused-transposed", "fused-interleaved"})}
"""Layouts that have the same names and shapes, and other bytes: what has to be recorded."""

LAYOUT_NAMES = [
    "per-expert",
    "fused",
    "fused-transposed",
    "fused-flat",
    "stacked",
    "stacked-flat",
    "fused-interleaved",
    "interleaved",
    "nemo",
]
SIZE = st.integers(1, 64)


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
    """Gate_up has e p i h, down has e i h and may have d, biases those of their rows, each once."""
    expected = {
        "gate_up": set("epih"),
        "down": set("eih"),
        "gate_up_bias": set("epi"),
        "down_bias": set("eh"),
        "gate_up_scale_inv": set("epjk"),
        "down_scale_inv": set("ejk"),
        "gate_up_scale": set("epig"),
        "down_scale": set("ehq"),
        "gate_up_packed": {*"epi", "g8"},
        "down_packed": {*"eh", "q8"},
        "gate_up_shape": set("epn"),
        "down_shape": set("en"),
        "gate_up_blocks": set("epigb"),
        "down_blocks": set("ehqb"),
        "gate_up_scales": set("epig"),
        "down_scales": set("ehq"),
    }
    for layout in CATALOG.layouts.values():
        for weight, template in layout.templates.items():
            axes = [*template.name_axes, *template.axes]
            assert len(axes) == len(set(axes))
            assert set(axes) - {"d"} == expected[weight], (layout.name, weight)


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


def test_roles_map_every_name_back() -> None:
    """Each name that a row can write means that row's weight and position, among few others."""
    seen = set()
    auto_detect = [naming for naming in CATALOG.namings.values() if naming.auto_detect]
    for layout, naming in itertools.product(CATALOG.layouts.values(), auto_detect):
        row = NamedLayout(layout, naming)
        told_by_names = layout.name in ("per-expert", "stacked", "stacked-flat")
        assert row.names_projections() == told_by_names
        for weight, template in layout.templates.items():
            spans = [[None] if a == "e" else [*range(row.sizes()[a])] for a in template.name_axes]
            for position in itertools.product(*spans):
                tokens = {
                    axis: "*" if k is None else row.token(axis, k)
                    for axis, k in zip(template.name_axes, position, strict=True)
                }
                name = template.tensor_name(tokens)
                seen.add(name)
                found = [r for r in CATALOG.names_to_weights()[name] if r.row.layout is layout]
                assert len(found) == 1, name
                assert (found[0].weight, found[0].position) == (weight, position)
                expected = naming if told_by_names else CATALOG.namings["qwen"]
                assert found[0].row == NamedLayout(layout, expected)
    assert seen == set(CATALOG.names_to_weights())


def test_roles_of_well_known_names() -> None:
    """What the names of real checkpoints mean."""

    def meaning(name: str) -> set[tuple[str, str, tuple[int | None, ...]]]:
        return {(r.row.layout.name, r.weight, r.position) for r in CATALOG.names_to_weights()[name]}

    assert meaning("experts.*.up_proj.weight") == {("per-expert", "gate_up", (None, 1))}
    assert meaning("experts.*.w3.weight") == {("per-expert", "gate_up", (None, 1))}
    assert meaning("experts.*.w2.weight") == {("per-expert", "down", (None, 0))}
    assert meaning("experts.gate_proj") == {
        ("stacked", "gate_up", (0,)),
        ("stacked-flat", "gate_up", (0,)),
    }
    assert meaning("experts.*.w1.weight_scale_inv") == {
        ("per-expert", "gate_up_scale_inv", (None, 0))
    }
    assert {layout for layout, _, _ in meaning("experts.gate_up_proj_packed")} == {"fused"}
    assert meaning("experts.gate_up_proj") == {
        (name, "gate_up", ())
        for name in ("fused", "fused-transposed", "fused-flat", "fused-interleaved")
    }
    assert {layout for layout, _, _ in meaning("experts.down_proj")} == set(LAYOUT_NAMES) - {
        "per-expert",
        "nemo",
    }
    for name in ("shared_expert.up_proj.weight", "up_proj.weight", "experts.*.weight"):
        assert name not in CATALOG.names_to_weights()


def test_experts_are_numbered_and_projections_named() -> None:
    """Tokens of the axes in a name."""
    row = NamedLayout(CATALOG.layouts["per-expert"], CATALOG.namings["fc"])
    assert [row.token("e", k) for k in (9, 10)] == ["9", "10"]
    assert [row.token(*at) for at in (("p", 0), ("p", 1), ("d", 0))] == ["fc1", "fc3", "fc2"]
    assert row.sizes() == {"p": 2, "d": 1}


# --- families ----------------------------------------------------------------------------------

FAMILIES = list(CATALOG.families.values())
OF_FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


@OF_FAMILY
def test_the_table_of_families(family: Family) -> None:
    """A family is found by its model types, the hub's names are its own, merging has a form."""
    assert family.model_types
    for model_type in family.model_types:
        assert CATALOG.find_family(model_type) is family
    assert "hub" in family.forms
    assert set(family.forms) <= set(FORMS)
    assert family.merge in {*family.forms, "fused", "stacked"}
    assert not {*family.without} & {*family.forms}
    for name, form in family.forms.items():
        assert form.name == name
        assert any(form.layout_of(stack) for stack in family.stacks)
    for stack in family.stacks:
        assert family.layout_for(stack, family.forms["hub"])


def test_model_types_are_of_one_family() -> None:
    """No model type stands in two rows; one that stands in none is of no family."""
    types = [model_type for family in FAMILIES for model_type in family.model_types]
    assert len(types) == len(set(types))
    assert CATALOG.find_family("llama") is None
    assert CATALOG.find_family(None) is None


def test_what_merging_makes_of_the_three_first_models() -> None:
    """InternVL3.5 and GLM-4.5V flat, the thinker of Qwen3-Omni transposed, its talker as it is."""
    merged = {}
    for model_type in ("internvl_chat", "glm4v_moe", "qwen3_omni_moe"):
        family = CATALOG.find_family(model_type)
        assert family is not None
        for stack in family.stacks:
            row = family.layout_for(stack, family.forms[family.merge])
            merged[stack] = row.layout.name if row else None
    assert merged == {
        "language_model.model.layers.*.mlp.": "fused-flat",
        "model.language_model.layers.*.mlp.": "fused-flat",
        "thinker.model.layers.*.mlp.": "fused-transposed",
        "talker.model.layers.*.mlp.": None,
    }


# --- renames -----------------------------------------------------------------------------------

RENAMED = {
    ("qwen3_omni_moe", "mindspeed"): {
        "thinker.model.layers.0.mlp.experts.10.up_proj.weight": (
            "model.layers.0.mlp.experts.10.up_proj.weight"
        ),
        "thinker.model.layers.0.mlp.experts.gate_up_proj": (
            "model.layers.0.mlp.experts.gate_up_proj"
        ),
        "thinker.model.layers.47.mlp.gate.weight": "model.layers.47.mlp.gate.weight",
        "thinker.model.embed_tokens.weight": "model.embed_tokens.weight",
        "thinker.model.norm.weight": "model.norm.weight",
        "thinker.lm_head.weight": "lm_head.weight",
        "thinker.visual.blocks.0.attn.qkv.weight": "visual.blocks.0.attn.qkv.weight",
        "thinker.visual.merger_list.2.mlp.0.bias": "visual.merger_list.2.mlp.0.bias",
        "thinker.audio_tower.conv2d1.weight": "audio_tower.conv2d1.weight",
        "thinker.audio_tower.layers.31.fc1.bias": "audio_tower.layers.31.fc1.bias",
        "talker.model.layers.0.mlp.experts.127.down_proj.weight": None,
        "talker.model.codec_embedding.weight": None,
        "talker.hidden_projection.linear_fc1.weight": None,
        "talker.code_predictor.lm_head.0.weight": None,
        "code2wav.decoder.0.conv.weight": None,
        "code2wav.pre_transformer.layers.0.mlp.gate_proj.weight": None,
    },
    ("qwen3_omni_moe", "transformers"): {
        "thinker.model.layers.0.mlp.experts.10.up_proj.weight": (
            "thinker.model.language_model.layers.0.mlp.experts.10.up_proj.weight"
        ),
        "thinker.model.layers.0.mlp.experts.gate_up_proj": (
            "thinker.model.language_model.layers.0.mlp.experts.gate_up_proj"
        ),
        "thinker.model.embed_tokens.weight": "thinker.model.language_model.embed_tokens.weight",
        "thinker.model.norm.weight": "thinker.model.language_model.norm.weight",
        "thinker.lm_head.weight": None,
        "thinker.visual.blocks.0.attn.qkv.weight": "thinker.model.visual.blocks.0.attn.qkv.weight",
        "thinker.audio_tower.conv2d1.weight": "thinker.model.audio_tower.conv2d1.weight",
        "talker.model.layers.0.mlp.experts.127.down_proj.weight": None,
        "talker.code_predictor.lm_head.0.weight": None,
        "code2wav.decoder.0.conv.weight": None,
    },
    ("mixtral", "transformers"): {
        "model.layers.0.block_sparse_moe.experts.7.w2.weight": (
            "model.layers.0.mlp.experts.7.w2.weight"
        ),
        "model.layers.0.block_sparse_moe.experts.gate_up_proj": (
            "model.layers.0.mlp.experts.gate_up_proj"
        ),
        "model.layers.31.block_sparse_moe.gate.weight": "model.layers.31.mlp.gate.weight",
        "model.layers.0.self_attn.q_proj.weight": None,
        "model.layers.0.input_layernorm.weight": None,
        "model.embed_tokens.weight": None,
        "model.norm.weight": None,
        "lm_head.weight": None,
    },
}
"""Names on the hub, and those in the form; None where the form has the same."""


def form_of(model_type: str, name: str) -> Form:
    family = CATALOG.find_family(model_type)
    assert family is not None
    return family.forms[name]


@pytest.mark.parametrize(
    ("model_type", "form_name", "hub", "here"),
    [(*key, hub, here or hub) for key, names in RENAMED.items() for hub, here in names.items()],
)
def test_renames_are_two_sided(model_type: str, form_name: str, hub: str, here: str) -> None:
    """Every kind of name becomes the form's, and comes back from it."""
    form = form_of(model_type, form_name)
    assert form.apply(hub) == here
    assert form.undo(here) == hub
    assert form.is_reversible(hub)


@OF_FAMILY
def test_expert_names_come_back_from_every_form(family: Family) -> None:
    """The experts' own names do, in each of the family's forms; no two of them become one."""
    for stack, form in itertools.product(family.stacks, family.forms.values()):
        prefix = stack.replace("*", "3")
        hub = [
            f"{prefix}{name.replace('*', '12')}" for name in CATALOG.names_to_weights(family.naming)
        ]
        form_name = [form.apply(name) for name in hub]
        assert [form.undo(name) for name in form_name] == hub
        assert len(set(form_name)) == len(hub)


@settings(deadline=None, max_examples=100)
@given(
    first=st.sampled_from(["", "thinker.", "talker.", "code2wav.", "lm_head.", "other."]),
    rest=st.text(st.sampled_from("ab.\n*0"), max_size=8),
)
def test_what_loses_its_prefix_gets_it_back_or_is_known_not_to(first: str, rest: str) -> None:
    """A name that would come back as another one is told apart before it is written."""
    form = form_of("qwen3_omni_moe", "mindspeed")
    thinker = f"thinker.{first}{rest}"
    assert form.apply(thinker) == first + rest
    lost = first in ("thinker.", "talker.", "code2wav.")
    assert form.is_reversible(thinker) == (not lost)
    assert form.undo(form.apply(thinker)) == (first + rest if lost else thinker)
    if first in ("talker.", "code2wav."):
        assert form.apply(first + rest) == first + rest
        assert form.is_reversible(first + rest)
    if first in ("lm_head.", "other."):
        assert form.apply(first + rest) == first + rest
        assert not form.is_reversible(first + rest)


def test_renames_are_done_in_order_and_undone_in_reverse() -> None:
    """One after the other, on what the last one made; dots and other signs mean themselves."""
    form = Form(
        "f",
        (),
        (Rename("a.*", "y.*", unless=("y.y",)), Rename("y.*.b*", "x.*+*"), Rename("c", "d")),
    )
    assert form.apply("a.1.b2") == "x.1+2"
    assert form.undo("x.1+2") == "a.1.b2"
    assert form.apply("a.1") == "y.1"
    assert form.undo("y.1") == "a.1"
    assert form.undo("y.y1") == "y.y1"
    assert (form.apply("c"), form.undo("d"), form.apply("cc")) == ("d", "c", "cc")
    assert form.apply("aX1.b2") == "aX1.b2"
    assert HUB_NAMES.apply("a.1") == HUB_NAMES.undo("a.1") == "a.1"

"""The table of families, and the names in their forms."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.families import FORMS, Family, Form
from streamconv.catalog.name_lookup import build_name_lookup

CATALOG = default_catalog()

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
    """No model type is in two rows; one that is in no row has no family."""
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


# --- names in forms ----------------------------------------------------------------------------

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
    """The experts' own names do, in each of the family's forms; no two of them become one.

    What a form calls a companion may be another spelling of it: DeepSeek-V4's `.scale`.
    """
    for stack, form in itertools.product(family.stacks, family.forms.values()):
        prefix = stack.replace("*", "3")
        own = build_name_lookup(CATALOG.layouts.values(), [family.naming])
        hub = [f"{prefix}{name.replace('*', '12')}" for name in own]
        hub = [
            name for name in hub if form.apply(form.undo(name)) != name or form.undo(name) == name
        ]
        assert len(hub) > 10
        form_name = [form.apply(name) for name in hub]
        assert [form.undo(name) for name in form_name] == hub
        assert len(set(form_name)) == len(hub)


@settings(deadline=None, max_examples=100)
@given(
    first=st.sampled_from(["", "thinker.", "talker.", "code2wav.", "lm_head.", "other."]),
    rest=st.text(st.sampled_from("ab.\n*0"), max_size=8),
)
def test_what_loses_its_prefix_gets_it_back_or_is_known_not_to(first: str, rest: str) -> None:
    """A name that would come back as another one is found before it is written."""
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

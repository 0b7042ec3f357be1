"""Which layouts and names a target means, and which stacks cannot have it."""

import pytest
from header_models import OMNI, Tensors, checkpoint_of, experts, omni

from streamconv.catalog.catalog import default_catalog
from streamconv.detection.detect import Detected, detect
from streamconv.errors import PlanRefused, UsageError
from streamconv.planning.target import resolve_target

PREFIX = "model.layers.0.mlp."
PATTERN = "model.layers.*.mlp."


def detected(tensors: Tensors, model_type: str = "qwen3_moe") -> Detected:
    return detect(checkpoint_of(tensors, model_type), default_catalog())


def test_a_layout_is_for_every_stack() -> None:
    found = detected(omni(), OMNI)
    for layout in ("fused", "stacked", "fused-transposed"):
        target = resolve_target(found, layout, "asked")
        assert len(target.rows) == 2
        assert {row.layout.name for row in target.rows.values()} == {layout}
        assert target.kept == {}


def test_a_form_says_it_of_each_stack() -> None:
    """As the family's row has it; `form` is set, as it is for a layout that comes to the same."""
    found = detected(omni(), OMNI)
    form = found.family and found.family.forms["transformers"]
    assert form is not None
    target = resolve_target(found, "transformers", "asked")
    expected = {stack.pattern: form.layout_of(stack.pattern) for stack in found.stacks}
    assert {pattern: row.layout for pattern, row in target.rows.items()} == expected
    assert target.form == "transformers"
    assert target.names == form


def test_what_there_is_not() -> None:
    """A layout that is none, a form of no family, and one that the family lacks."""
    found = detected(experts(PREFIX, 3, 4, 6))
    with pytest.raises(UsageError, match="fusd"):
        resolve_target(found, "fusd", "asked")
    unknown = detected(experts(PREFIX, 3, 4, 6), "a_model_of_tomorrow")
    with pytest.raises(PlanRefused, match="no form 'transformers' here: it is in no family"):
        resolve_target(unknown, "transformers", "asked")
    kimi = detected(experts(PREFIX, 3, 4, 6), "kimi_k2")
    with pytest.raises(PlanRefused, match="no form 'mindspeed' here, only hub, transformers"):
        resolve_target(kimi, "mindspeed", "asked")


def test_a_count_that_could_not_be_found_again() -> None:
    """Flat, the number of experts and their width are one number, and config.json has neither."""
    found = detected(experts(PREFIX, 3, 4, 6), "a_model_of_tomorrow")
    with pytest.raises(PlanRefused, match="would not show how many experts there are") as caught:
        resolve_target(found, "stacked-flat", "asked")
    target = resolve_target(found, "stacked-flat", "asked", pass_through=True)
    assert target.rows == {PATTERN: found.stacks[0].row}
    assert target.kept == {f"{PATTERN}experts": caught.value.message}


def mixed() -> Detected:
    """Experts apart in one layer, and fused in the next."""
    next_layer = experts("model.layers.1.mlp.", 3, 4, 6, "fused")
    return detected({**experts(PREFIX, 3, 4, 6), **next_layer})


@pytest.mark.parametrize("form", ["hub", "transformers"])
def test_layers_in_several_layouts_become_one(form: str) -> None:
    """They are in no form, and can have each."""
    found = mixed()
    assert found.form is None
    target = resolve_target(found, form, "asked")
    assert (target.form, len(target.rows)) == (form, 1)


def test_layers_in_several_layouts_cannot_stay_unasked() -> None:
    """A record has one layout for all of them: nothing is converted that should stay."""
    found = mixed()
    with pytest.raises(PlanRefused, match=r"cannot leave .* per-expert and fused") as caught:
        resolve_target(found, "same", "asked")
    assert "--to per-expert" in caught.value.hint


@pytest.mark.parametrize("options", [{"pass_through": True}, {"is_written": False}], ids=str)
def test_layers_in_several_layouts_stay(options: dict[str, bool]) -> None:
    """Each in its own, which no record names."""
    found = mixed()
    target = resolve_target(found, "same", "asked", **options)
    assert (target.rows, target.form) == ({}, None)
    assert [target.layout_for(stack) == stack.row for stack in found.stacks] == [True, True]


@pytest.mark.parametrize("number", [0, 1])
def test_only_the_layers_that_are_kept_count(number: int) -> None:
    found = mixed()
    target = resolve_target(found, "same", "asked", layers=range(number, number + 1))
    assert target.rows == {PATTERN: found.stacks[number].row}


def test_a_refusal_of_layers_in_several_layouts_is_kept() -> None:
    """They stay, and the reason is that of the layout that was asked for."""
    found = detect(
        checkpoint_of(
            {
                **experts(PREFIX, 3, 4, 6),
                **experts("model.layers.1.mlp.", 3, 4, 6, "fused"),
            },
            "a_model_of_tomorrow",
        ),
        default_catalog(),
    )
    with pytest.raises(PlanRefused, match="would not show how many experts") as caught:
        resolve_target(found, "stacked-flat", "asked")
    target = resolve_target(found, "stacked-flat", "asked", pass_through=True)
    assert target.kept == {f"{PATTERN}experts": caught.value.message}
    assert [target.layout_for(stack) == stack.row for stack in found.stacks] == [True, True]

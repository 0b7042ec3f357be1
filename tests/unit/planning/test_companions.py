"""What belongs to a weight stays with it: through every form and layout of every family.

The pairs of a weight and its companion are the test's own, and so are the names that both have to
have afterwards.
"""

import re
from contextlib import suppress
from dataclasses import replace

import pytest
from family_headers import checkpoint_in_form, named_like
from header_models import LIMITS, checkpoint_of, experts

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.families import Family
from streamconv.checkpoint.casting import Casting
from streamconv.checkpoint.protected_tensors import protected_kind
from streamconv.checkpoint.types import Checkpoint
from streamconv.detection.detect import Detected, detect
from streamconv.errors import PlanRefused
from streamconv.planning.make_plan import make_plan
from streamconv.planning.plan import Plan
from streamconv.planning.target import resolve_target
from streamconv.quantization.cast_checkpoint import cast_checkpoint

CATALOG = default_catalog()
OF_FAMILY = pytest.mark.parametrize("family", CATALOG.families.values(), ids=lambda f: f.name)

KINDS = {"bias": "_bias", "weight_scale_inv": "_scale_inv", "weight_scale": "_scale"}
"""Companions that layouts describe: after `X.`, and after another name of a weight."""
OTHERS = {
    "weight_offset": "_offset",
    "weight_zeros": "_zeros",
    "deq_scale": "_deq_scale",
    "quant_bias": "_quant_bias",
}
"""Companions that none describes."""


def plan_of(
    checkpoint: Checkpoint, to: str, *, pass_through: bool = False, found: Detected | None = None
) -> Plan:
    """`found` is what was detected in it before."""
    found = found or detect(checkpoint, CATALOG, pass_through=pass_through)
    return make_plan(
        checkpoint,
        found,
        resolve_target(found, to, "asked", pass_through=pass_through),
        max_shard_bytes=10**12,
        limits=LIMITS,
    )


def outputs(plan: Plan) -> dict[str, set[str]]:
    """The names of the tensors that each tensor of the source becomes."""
    made: dict[str, set[str]] = {}
    for shard in plan.shards:
        for step in shard.steps:
            for info in step.inputs:
                made.setdefault(info.name, set()).add(step.name)
    return made


def check_together(plan: Plan, owners: dict[str, str], endings: dict[str, str]) -> None:
    """A companion becomes the companions of what its weight becomes."""
    made = outputs(plan)
    for companion, weight in owners.items():
        ending = next(
            ending
            for ending, bare in endings.items()
            if own_spelling(companion) == own_spelling(named_like(weight, ending, bare))
        )
        want = {named_like(name, ending, endings[ending]) for name in made[weight]}
        got = {own_spelling(name) for name in made[companion]}
        assert got == {own_spelling(name) for name in want}, (companion, weight)


def own_spelling(name: str) -> str:
    """A name as DeepSeek-V4 is published: its scales are called `X.scale`."""
    return name.replace(".weight_scale_inv", ".scale")


def targets(family: Family) -> list[str]:
    return [*family.forms, *CATALOG.layouts]


@OF_FAMILY
@pytest.mark.parametrize("kind", KINDS)
def test_companions_of_experts_go_where_they_go(family: Family, kind: str) -> None:
    """Or the conversion is refused. Some conversion of each family is possible."""
    if family.refused:
        return
    done = []
    for form in family.forms.values():
        checkpoint, owners = checkpoint_in_form(family, form, experts=(kind, KINDS[kind]))
        with suppress(PlanRefused):
            found = detect(checkpoint, CATALOG)
            for to in targets(family):
                with suppress(PlanRefused):
                    plan = plan_of(checkpoint, to, found=found)
                    check_together(plan, owners, {kind: KINDS[kind]})
                    done.append(to)
    # Scales of square blocks have no place where the rows of gate and up are interleaved.
    assert done or kind == "weight_scale_inv"


@OF_FAMILY
def test_companions_of_what_a_form_renames(family: Family) -> None:
    """They are renamed with it, also those that no row and no layout mentions."""
    endings = {**KINDS, **OTHERS}
    for form in family.forms.values():
        checkpoint, owners = checkpoint_in_form(family, form, others=endings)
        for to in family.forms:
            plan = plan_of(checkpoint, to, pass_through=bool(family.refused))
            check_together(plan, owners, endings)


@OF_FAMILY
@pytest.mark.parametrize("ending", OTHERS)
def test_undescribed_companions_of_experts_are_refused_or_stay(family: Family, ending: str) -> None:
    """The refusal names both. Passed through, no tensor of the experts is rearranged.

    Each form meets each target with one of the endings or two.
    """
    if family.refused:
        return
    for number, form in enumerate(family.forms.values(), [*OTHERS].index(ending)):
        checkpoint, owners = checkpoint_in_form(family, form, experts=(ending, OTHERS[ending]))
        with pytest.raises(PlanRefused) as caught:
            plan_of(checkpoint, "fused")
        assert any(
            companion in caught.value.message and weight in caught.value.message
            for companion, weight in owners.items()
        ), caught.value.message
        found = detect(checkpoint, CATALOG, pass_through=True)
        for to in targets(family)[number % 3 :: 3]:
            plan = plan_of(checkpoint, to, pass_through=True, found=found)
            check_together(plan, owners, {ending: OTHERS[ending]})
            assert not [step.name for s in plan.shards for step in s.steps if step.expert]


@OF_FAMILY
def test_a_router_bias_is_protected_in_every_form(family: Family) -> None:
    """What keeps its dtype under one of its names keeps it under the others."""
    for name in ("mlp.gate.e_score_correction_bias", "mlp.gate.weight", "input_layernorm.weight"):
        for form in family.forms.values():
            hub_name = form.undo(f"model.layers.0.{name}")
            for other in family.forms.values():
                assert protected_kind(other.apply(hub_name), family) is not None


def test_the_router_bias_of_step_is_not_cast() -> None:
    family = CATALOG.families["step3p7"]
    name = "model.layers.4.moe.router_bias"
    checkpoint = checkpoint_of({name: ("F32", (4,)), "a.weight": ("F32", (4,))}, "step3p7")
    cast = cast_checkpoint(checkpoint, Casting("BF16"), family).tensors
    assert {n: info.dtype for n, info in cast.items()} == {name: "F32", "a.weight": "BF16"}


@pytest.mark.parametrize(
    ("inner", "layout"),
    [("gpt_oss", "fused-interleaved"), ("llama4_text", "fused-transposed"), ("qwen3_moe", None)],
)
def test_the_language_model_inside_tells_its_layout(inner: str, layout: str | None) -> None:
    """Square experts fit two layouts. If nothing tells which, the hint has both and their users."""
    tensors = experts("language_model.model.layers.0.mlp.", 3, 4, 4, "fused-transposed")
    config = {"model_type": "internvl_chat", "llm_config": {"model_type": inner}}
    checkpoint = replace(checkpoint_of(tensors), config=config)
    if layout is None:
        with pytest.raises(PlanRefused, match="alike") as caught:
            detect(checkpoint, CATALOG)
        assert "--from fused-transposed (Qwen3-VL" in caught.value.hint
        assert "--from fused-interleaved (gpt-oss" in caught.value.hint
        return
    (stack,) = detect(checkpoint, CATALOG).stacks
    assert stack.row.layout.name == layout


@pytest.mark.parametrize("shape", [(2,), (3,), (1, 1)])
def test_scales_that_no_layout_has_a_place_for(shape: tuple[int, ...]) -> None:
    """Two or three for all of Granite's fused experts: refused, or left whole."""
    family = CATALOG.families["granite-moe"]
    checkpoint, owners = checkpoint_in_form(family, family.forms["hub"])
    weight = "model.layers.1.block_sparse_moe.input_linear.weight"
    scale = f"{weight}_scale"
    tensors = {n: (i.dtype, i.shape) for n, i in checkpoint.tensors.items()}
    tensors[scale] = ("F32", shape)
    assert not owners
    checkpoint = replace(checkpoint, tensors=checkpoint_of(tensors).tensors)
    with pytest.raises(
        PlanRefused, match=f"{re.escape(scale)} is F32.* belongs to {re.escape(weight)} "
    ):
        plan_of(checkpoint, "per-expert")
    made = outputs(plan_of(checkpoint, "per-expert", pass_through=True))
    assert made == {name: {name} for name in tensors}

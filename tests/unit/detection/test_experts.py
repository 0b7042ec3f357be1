"""Experts are found by name, complete and in order, or the missing tensor is named."""

import re
from collections.abc import Sequence

import pytest
from header_models import Tensors, checkpoint_of, experts

from streamconv.catalog.catalog import default_catalog
from streamconv.detection.experts import ModuleExperts, find_experts, stack_experts
from streamconv.detection.refusals import Refusals
from streamconv.errors import BadCheckpoint, PlanRefused

PREFIX = "model.layers.0.mlp."


def found_in(tensors: Tensors, counts: Sequence[int] = ()) -> list[ModuleExperts]:
    infos = checkpoint_of(tensors).tensors
    return list(find_experts(infos.items(), default_catalog(), lambda *_: counts))


def test_experts_are_ordered_by_number() -> None:
    """The tenth comes after the ninth, in whatever order the names are."""
    tensors = dict(reversed(experts(PREFIX, 12, 3, 5).items()))
    (module,) = found_in(tensors)
    (candidate,) = module.candidates
    assert module.pattern == candidate.pattern == "model.layers.*.mlp."
    assert {axis: candidate.sizes[axis] for axis in "eih"} == {"e": 12, "i": 3, "h": 5}
    assert [info.name for info in candidate.module.tensors["down"]] == [
        f"{PREFIX}experts.{number}.down_proj.weight" for number in range(12)
    ]


def test_every_layout_that_fits_is_a_candidate() -> None:
    """A square gate_up fits two ways round."""
    (module,) = found_in(experts(PREFIX, 2, 4, 8, "fused"))
    names = {candidate.row.layout.name for candidate in module.candidates}
    assert "fused" in names
    (square,) = found_in(experts(PREFIX, 2, 4, 4, "fused-transposed"))
    names = {candidate.row.layout.name for candidate in square.candidates}
    assert {"fused-transposed", "fused-interleaved"} <= names


@pytest.mark.parametrize(
    ("lost", "fact"),
    [
        (r"experts\.1\.up_proj", "experts.1.up_proj.weight is missing: there are experts 0 to 3"),
        (r"experts\.2\.", "experts.2.gate_proj.weight is missing: there are experts 0 to 1 and 3"),
        (r"down_proj", "but no experts.*.down_proj.weight"),
    ],
)
def test_the_first_missing_tensor_is_named(lost: str, fact: str) -> None:
    tensors = experts(PREFIX, 4, 3, 5)
    with pytest.raises(BadCheckpoint, match=re.escape(fact)):
        found_in({name: entry for name, entry in tensors.items() if not re.search(lost, name)})


def test_a_huge_number_is_a_gap() -> None:
    """It is found without counting up to it."""
    tensors = experts(PREFIX, 2, 3, 5)
    tensors[f"{PREFIX}experts.999999999.up_proj.weight"] = ("BF16", (3, 5))
    with pytest.raises(BadCheckpoint, match=r"experts\.2\.gate_proj\.weight is missing"):
        found_in(tensors)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("part", ["experts.0.", "experts.", "0.", ".", "experts.gate_up_proj."])
def test_long_names_take_time_in_proportion(part: str) -> None:
    """Of 60 with 6,000 times the same part, which took minutes, none is an expert's."""
    tensors: Tensors = {f"{part * 6000}{number}x": ("U8", (1,)) for number in range(60)}
    infos = checkpoint_of(tensors).tensors.items()
    refusals = Refusals(collects=True)
    modules = find_experts(infos, default_catalog(), lambda *_: (), refusals=refusals)
    assert list(modules) == []


def test_experts_without_a_layout() -> None:
    """They are refused, or skipped with their pattern."""
    tensors: Tensors = {f"{PREFIX}experts.0.strange.weight": ("BF16", (3, 5))}
    infos = checkpoint_of(tensors).tensors.items()
    with pytest.raises(PlanRefused, match=r"strange\.weight belongs to an expert"):
        list(find_experts(infos, default_catalog(), lambda *_: ()))
    refusals = Refusals(collects=True)
    modules = find_experts(infos, default_catalog(), lambda *_: (), refusals=refusals)
    assert list(modules) == []
    (refusal,) = refusals.by_pattern().items()
    assert refusal[0] == "model.layers.*.mlp."
    assert not refusal[1].is_defect


def test_the_order_of_tensors_does_not_divide_a_stack() -> None:
    """Layers whose tensors stand in another order in the file are of one stack."""
    first = experts(PREFIX, 2, 3, 5)
    second = experts("model.layers.1.mlp.", 2, 3, 5)
    tensors = {**first, **dict(reversed(second.items()))}
    (stack,) = stack_experts(module.candidates[0] for module in found_in(tensors))
    assert len(stack.modules) == 2

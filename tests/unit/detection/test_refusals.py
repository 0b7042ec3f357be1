"""Reasons why experts cannot be converted: raised at once, or collected by their modules."""

import pytest

from streamconv.detection.refusals import Refusal, Refusals
from streamconv.errors import BadCheckpoint, PlanRefused


def test_the_first_one_is_raised() -> None:
    with pytest.raises(PlanRefused, match="no layout"):
        Refusals(collects=False).add("a.*.", PlanRefused("no layout", "add one"))


def test_the_first_one_of_each_pattern_is_collected() -> None:
    refusals = Refusals(collects=True)
    refusals.add("a.*.", PlanRefused("no layout", "add one"))
    refusals.add("a.*.", PlanRefused("another"))
    refusals.add("b.*.", BadCheckpoint("missing", "find it"))
    assert "a.*." in refusals
    assert "c.*." not in refusals
    assert refusals.by_pattern() == {
        "a.*.": Refusal("no layout", "add one", False),
        "b.*.": Refusal("missing", "find it", True),
    }


@pytest.mark.parametrize("collects", [True, False])
def test_a_way_on_is_always_said(collects: bool) -> None:
    error = BadCheckpoint("missing")
    try:
        Refusals(collects=collects).add("a.*.", error)
    except BadCheckpoint:
        assert not collects
    assert "--pass-through" in error.hint

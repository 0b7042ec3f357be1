"""What a weight and its companions are called, in the three spellings that are about."""

import itertools
import re

import pytest

from streamconv.catalog.companions import (
    companion_suffixes,
    endings_of,
    is_companion,
    possible_weights,
    stem_of,
)
from streamconv.catalog.renames import Rename


@pytest.mark.parametrize(
    ("weight", "companions"),
    [
        ("a.w1.weight", ("a.w1.weight_scale_inv", "a.w1.bias", "a.w1.input_scale", "a.w1.scale")),
        ("a.down_proj", ("a.down_proj_scale", "a.down_proj_bias", "a.down_proj_blocks")),
        ("a.w13_weight", ("a.w13_weight_scale", "a.w13_bias", "a.w13_input_scale")),
    ],
)
def test_companions_share_the_stem_of_their_weight(weight: str, companions: list[str]) -> None:
    assert not is_companion(weight)
    for companion in companions:
        assert is_companion(companion)
        assert stem_of(companion) == stem_of(weight)
        assert weight in possible_weights(companion)


def test_other_names_are_their_own_stem() -> None:
    for name in ("a.weight_of_it", "a.scales_of_b", "bias", "a.experts.gate_up_proj"):
        assert (stem_of(name), is_companion(name)) == (name, False)


def test_the_longest_ending_is_cut_off() -> None:
    """As an expression finds it: of any two endings in a row, and after a dot or nothing."""
    words = ("weight", *companion_suffixes())
    endings = [*(f"{s}{w}" for s in "._" for w in words), *companion_suffixes().values(), "x", "."]
    ending = re.compile(f"(?<=[^.])({'|'.join(map(re.escape, endings[:-2]))})\\Z")
    for first, second in itertools.product(endings, repeat=2):
        for name in (f"{first}{second}", f"a.b{first}{second}"):
            starts = (k for k in range(len(name)) if ending.match(name, k))
            assert stem_of(name) == name[: next(starts, len(name))], name


def test_endings_correspond_in_every_spelling() -> None:
    ends = [endings_of(weight)[1] for weight in ("a.weight", "a_weight", "a")]
    rows = [*zip(*ends, strict=True)]
    assert rows[0] == (".weight", "_weight", "")
    assert (".weight_scale", "_weight_scale", "_scale") in rows
    assert (".bias", "_bias", "_bias") in rows
    assert len({row[0] for row in rows}) == len({row[2] for row in rows}) == len(rows)


def test_a_rename_renames_the_companions() -> None:
    rename = Rename("*.experts.gate_up_proj", "*.input_linear.weight")
    assert rename.apply("a.experts.gate_up_proj_scale") == "a.input_linear.weight_scale"
    assert rename.undo("a.input_linear.bias") == "a.experts.gate_up_proj_bias"
    assert rename.apply("a.experts.gate_up_proj_of_b") is None
    assert Rename("a.*", "b.*").apply("a.weight_scale") == "b.weight_scale"

"""The pieces of a plan tile its shards, and depend on nothing else."""

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from header_models import (
    MERGED,
    PLANS,
    TRUE_SIZE,
    check_pieces,
    model,
    names_of,
    plan_from,
    planned,
    step_parts_of,
)
from hypothesis import given, settings

from streamconv.planning.memory import Limits
from streamconv.planning.plan import PIECE_BYTES
from streamconv.planning.shards import StepBytes


@settings(deadline=None, max_examples=60)
@given(drawn=PLANS)
def test_pieces_tile_small_shards(drawn: Mapping[str, Any]) -> None:
    """Of shards smaller than a piece, and of the smallest ones that there are."""
    check_pieces(plan_from(drawn))


@pytest.mark.parametrize("target", ["per-expert", *MERGED])
@pytest.mark.parametrize("source", ["per-expert", *MERGED])
@pytest.mark.parametrize("max_shard_bytes", [10**12, 40_000_000])
def test_pieces_of_true_size(source: str, target: str, max_shard_bytes: int) -> None:
    """They tile the shards, end where an expert or tensor does, and no later than they need."""
    plan = planned(
        model(**TRUE_SIZE, layout=source),
        target,
        declared_layout=source,
        max_shard_bytes=max_shard_bytes,
    )
    check_pieces(plan)
    an_expert = 3 * 768 * 2048 * 2
    pieces = list(plan.pieces())
    assert len(pieces) > 2 * 12 // 2
    assert all(piece.nbytes < PIECE_BYTES + an_expert for piece in pieces)
    for piece in pieces:
        assert [*reversed(piece.parts)] == [*piece.parts][::-1]
    for piece, after in itertools.pairwise(pieces):
        first, last = next(iter(after.parts)), next(reversed(piece.parts))
        if piece.shard == after.shard:
            assert isinstance(first, StepBytes)
            assert isinstance(last, StepBytes)
            assert piece.nbytes >= PIECE_BYTES
            assert first.begin % PIECE_BYTES == 0
            assert first.step.expert is None or first.begin == 0
            owners = [(s.step.module, s.step.expert) for s in (first, last)]
            assert first.step.expert is None or owners[0] != owners[1]


@pytest.mark.parametrize("target", ["fused-transposed", "fused-interleaved", "fused"])
def test_experts_larger_than_a_piece(target: str) -> None:
    """What is rearranged is made whole, what is copied is cut where a piece is full."""
    sizes: dict[str, Any] = {"layers": 1, "e": 3, "i": 2048, "h": 4096}
    plan = planned(model(**sizes), target)
    check_pieces(plan)
    unit = 2 * 2048 * 4096 * 2
    begins = {
        part.begin
        for piece in plan.pieces()
        for part in step_parts_of(piece)
        if part.step.name.endswith("gate_up_proj")
    }
    assert begins == ({0} if target != "fused" else set(range(0, unit, PIECE_BYTES)))
    at_once = unit if target != "fused" else PIECE_BYTES
    assert all(piece.nbytes < PIECE_BYTES + at_once for piece in plan.pieces())


def test_the_tensors_of_an_expert_are_one_piece() -> None:
    """Where every expert has tensors of its own, a piece holds whole experts, however large."""
    sizes: dict[str, Any] = {"layers": 1, "e": 11, "i": 2048, "h": 4096}
    plan = planned(model(**sizes, layout="fused"), "per-expert")
    holder: dict[Any, set[int]] = {}
    for number, piece in enumerate(plan.pieces()):
        for part in step_parts_of(piece):
            if part.step.expert is not None:
                holder.setdefault(part.step.expert, set()).add(number)
    assert sorted(holder) == list(range(11))
    assert all(len(pieces) == 1 for pieces in holder.values())


@pytest.mark.parametrize("target", ["fused", "fused-transposed"])
def test_pieces_do_not_depend_on_workers(target: str) -> None:
    """Nor on how much memory they have: digests of any two runs can be compared."""
    found = [
        list(planned(model(**TRUE_SIZE), target, limits=limits).pieces())
        for limits in (
            Limits(0, 1),
            Limits(0, 7),
            Limits(10**8, 7, allowed=120_000_000),
            Limits(0, 3, allowed=10**9),
        )
    ]
    assert len(found[0]) > 3
    assert all(pieces == found[0] for pieces in found)


def test_steps_are_grouped_by_layer() -> None:
    """Each step once, layers in their order, what is in none at the end."""
    plan = planned(model(layers=11))
    grouped = plan.steps_by_layer()
    assert [*grouped] == [*(("model.layers.", k) for k in range(12)), None]
    assert Counter(s.name for steps in grouped.values() for s in steps) == Counter(names_of(plan))
    assert "visual.blocks.0.weight" in {step.name for step in grouped[None]}

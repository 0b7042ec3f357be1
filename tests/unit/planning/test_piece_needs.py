"""What a plan says of few pieces is what its pieces are."""

from collections.abc import Mapping
from typing import Any

import pytest
from header_models import MERGED, PLANS, TRUE_SIZE, model, plan_from, planned, step_parts_of
from hypothesis import given, settings

from streamconv.planning import piece_needs
from streamconv.planning.piece_needs import MOST_PIECES, needs_of_few
from streamconv.planning.plan import PIECE_BYTES, Plan


def needs(plan: Plan) -> list[tuple[int, int]]:
    """Bytes of output and of input, of each piece of a plan."""
    return [
        (
            piece.nbytes,
            max(
                (
                    p.how.inputs * p.how.input_bytes
                    for p in step_parts_of(piece)
                    if not p.how.is_copy
                ),
                default=0,
            ),
        )
        for piece in plan.pieces()
    ]


@settings(deadline=None, max_examples=40)
@given(drawn=PLANS)
def test_the_needs_of_few_pieces(drawn: Mapping[str, Any]) -> None:
    """Exactly; nothing is said of many."""
    plan = plan_from(drawn)
    found, expected = needs_of_few(plan.shards, plan.format), needs(plan)
    if len(expected) > MOST_PIECES:
        assert found is None
    else:
        assert found is not None
        assert [(each.nbytes, each.source_buffer) for each in found] == expected


@pytest.mark.parametrize("target", ["per-expert", *MERGED])
def test_fewer_pieces_than_the_bytes_suggest(target: str) -> None:
    """As a piece ends with an expert: 9.4 MB each, so 8 MiB of an expert are not a piece."""
    plan = planned(model(**{**TRUE_SIZE, "layers": 1}), target, declared_layout="per-expert")
    found = needs_of_few(plan.shards, plan.format)
    assert found is not None
    assert [(each.nbytes, each.source_buffer) for each in found] == needs(plan)


def test_pieces_of_many_parts_are_counted_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are never more of them than that, and what they need is not known."""
    plan = planned(model(**{**TRUE_SIZE, "layers": 1}), "fused-transposed")
    monkeypatch.setattr(piece_needs, "MOST_PARTS", 3)
    found = needs_of_few(plan.shards, plan.format)
    assert found is not None
    assert len(found) == -(-plan.shards[0].nbytes // PIECE_BYTES) >= len(needs(plan))
    assert sum(each.nbytes for each in found) == plan.shards[0].nbytes
    assert {each.nbytes for each in found[:-1]} == {PIECE_BYTES}
    assert {each.source_buffer for each in found} == {None}


@pytest.mark.parametrize("parts", [3, 4096])
def test_many_pieces(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them limits the workers, however many parts they have."""
    monkeypatch.setattr(piece_needs, "MOST_PARTS", parts)
    plan = planned(model(**{**TRUE_SIZE, "layers": 4}), "fused")
    assert len(needs(plan)) > MOST_PIECES
    assert needs_of_few(plan.shards, plan.format) is None

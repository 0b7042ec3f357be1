"""Events become facts: percent, rate, time left, shard and layer, by a clock of the test."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from header_models import model, planned

from streamconv.execution.events import PieceWritten, Planned, Prepared
from streamconv.report.progress_facts import (
    RATE_SECONDS,
    Counted,
    CountStarted,
    ProgressTracker,
)
from streamconv.sinks.base import HashProgress, HashStarted
from streamconv.verification.result import VerifyProgress, VerifyStarted


def test_nothing_is_known_before_the_plan() -> None:
    facts = ProgressTracker(5.0).facts(7.5)
    assert (facts.activity, facts.total, facts.seconds) == ("reading headers", None, 2.5)
    assert facts.seconds_left is None


def test_a_conversion() -> None:
    """Shard and layer are those of the last piece; bytes of earlier runs do not count."""
    plan = planned(model(), max_shard_bytes=2000)
    tracker = ProgressTracker(0.0)
    tracker.add(Planned(plan), 1.0)
    total = sum(shard.nbytes for shard in plan.shards)
    assert tracker.facts(1.0).total == total
    missing = tuple(range(1, len(plan.shards)))
    tracker.add(Prepared(plan, frozenset({0}), missing), 2.0)
    assert tracker.facts(2.0).total == total - plan.shards[0].nbytes
    pieces = list(plan.pieces(missing))
    for number, piece in enumerate(pieces, start=1):
        tracker.add(PieceWritten(piece, ""), 2.0 + number)
        facts = tracker.facts(2.0 + number)
        assert facts.shard == (piece.shard + 1, len(plan.shards))
    assert facts.share == 1.0
    assert facts.seconds_left == 0.0
    assert facts.seconds == len(pieces)


class Parts(list[Any]):
    """The parts of a piece, and how many of them were looked at."""

    looked_at = 0

    def __getitem__(self, index: Any) -> Any:
        self.looked_at += 1
        return super().__getitem__(index)

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError

    def __reversed__(self) -> Iterator[Any]:
        return (self[-number] for number in range(1, len(self) + 1))


def test_of_a_piece_the_last_tensor_is_looked_at() -> None:
    """Of a hundred thousand: each would be made for that."""
    plan = planned(model(), "per-expert", max_shard_bytes=2000)
    tracker = ProgressTracker(0.0)
    tracker.add(Planned(plan), 1.0)
    tracker.add(Prepared(plan, frozenset(), tuple(range(len(plan.shards)))), 2.0)
    for piece in plan.pieces():
        last = list(piece.parts)[-1].step.name  # type: ignore[union-attr]
        parts = Parts(piece.parts)
        tracker.add(PieceWritten(replace(piece, parts=parts), ""), 3.0)
        layer = re.match(r"model\.layers\.\d+", last)
        assert tracker.facts(3.0).where == (layer[0] if layer else "")
        assert parts.looked_at == 1 < len(parts)


def test_the_rate_is_that_of_the_last_seconds() -> None:
    """A run that was fast and is slow now is not said to end soon."""
    tracker = ProgressTracker(0.0)
    tracker.add(VerifyStarted(10_000), 0.0)
    tracker.add(VerifyProgress(5_000, "a"), 1.0)
    assert tracker.facts(1.0).rate == 5_000
    for second in range(2, 60):
        tracker.add(VerifyProgress(10, "b"), second)
    facts = tracker.facts(59.0)
    assert facts.rate == pytest.approx(10, rel=0.2)
    assert facts.seconds_left == pytest.approx((10_000 - facts.done) / 10, rel=0.2)
    assert tracker.facts(59.0 + 2 * RATE_SECONDS).rate < 10  # type: ignore[operator]


@pytest.mark.parametrize(
    ("start", "step", "activity"),
    [
        (VerifyStarted(4), VerifyProgress(1, "x"), "verifying"),
        (HashStarted(4), HashProgress(1, "x"), "computing SHA-256"),
        (CountStarted("converting", 4, "families"), Counted("x"), "converting"),
    ],
)
def test_other_activities(start: object, step: object, activity: str) -> None:
    """They begin at zero after a conversion, and name what was done last."""
    tracker = ProgressTracker(0.0)
    tracker.add(Planned(planned(model())), 0.0)
    tracker.add(start, 10.0)  # type: ignore[arg-type]
    assert tracker.facts(10.0).done == 0
    tracker.add(step, 11.0)  # type: ignore[arg-type]
    facts = tracker.facts(11.0)
    assert (facts.activity, facts.share, facts.where) == (activity, 0.25, "x")
    assert (facts.seconds, facts.shard) == (1.0, None)


def test_a_verification_names_the_shard_and_the_tensor() -> None:
    """A file without tensors is no shard."""
    tracker = ProgressTracker(0.0)
    tracker.add(Planned(planned(model())), 0.0)
    tracker.add(VerifyStarted(9, ("a", "b", "c")), 0.0)
    assert tracker.facts(1.0).shard is None
    tracker.add(VerifyProgress(3, "model.norm.weight", "b"), 1.0)
    facts = tracker.facts(1.0)
    assert (facts.shard, facts.where) == ((2, 3), "model.norm.weight")
    tracker.add(VerifyProgress(3, "config.json", "config.json"), 2.0)
    assert tracker.facts(2.0).shard is None


def test_more_than_was_estimated_is_all() -> None:
    tracker = ProgressTracker(0.0)
    tracker.add(VerifyStarted(10), 0.0)
    tracker.add(VerifyProgress(20, str(Path("a"))), 1.0)
    assert (tracker.facts(1.0).share, tracker.facts(1.0).seconds_left) == (1.0, 0.0)

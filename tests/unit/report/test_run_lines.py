"""What a run says on stderr: an activity once, and with -v each shard when it is complete."""

from dataclasses import replace
from pathlib import Path

import pytest
from header_models import model, planned

from streamconv.execution.events import Completed, PieceWritten, Planned, Prepared
from streamconv.report.progress_facts import AnyEvent, CountStarted
from streamconv.report.run_lines import Chronicle, memory_line, opening_line
from streamconv.sinks.base import HashStarted
from streamconv.units import show_duration
from streamconv.verification.result import VerifyStarted

PLAN = planned(model(), max_shard_bytes=4000)


def said(chronicle: Chronicle, event: AnyEvent, now: float = 0) -> list[str]:
    return [*chronicle.lines(event, now)]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (HashStarted(3_000_000), "computing SHA-256 of 3.00 MB"),
        (VerifyStarted(5_000), "verifying 5.00 kB"),
        (VerifyStarted(0), None),
        (CountStarted("converting", 3, "families"), "converting 3 families"),
    ],
)
def test_an_activity_is_announced(event: AnyEvent, line: str | None) -> None:
    """A verification of nothing is none."""
    for verbose in (False, True):
        assert said(Chronicle(verbose), event) == ([line] if line else [])


def test_nothing_is_said_before_the_target_is_accepted() -> None:
    chronicle = Chronicle(False)
    assert said(chronicle, Planned(PLAN)) == []
    assert said(chronicle, Prepared(PLAN, frozenset(), (0, 1))) == [opening_line(PLAN)]
    assert said(chronicle, PieceWritten(next(iter(PLAN.pieces())), b"")) == []


def test_a_shard_is_named_with_its_last_piece() -> None:
    """In whatever order pieces of several shards come."""
    chronicle = Chronicle(True)
    said(chronicle, Planned(PLAN), 10)
    lines = said(chronicle, Prepared(PLAN, frozenset({2}), (0, 1)), 10)
    assert lines[1] == memory_line(PLAN)
    assert lines[2].startswith("2 shards to write, ")
    assert lines[2].endswith("; 1 complete before")
    halves = [
        replace(piece, nbytes=nbytes) for piece in PLAN.pieces() for nbytes in (piece.nbytes - 1, 1)
    ]
    named = []
    for number, piece in enumerate([*halves[::2], *reversed(halves[1::2])]):
        lines = said(chronicle, PieceWritten(piece, b""), 75)
        assert bool(lines) == (number >= len(PLAN.shards))
        named += lines
    assert [line.split(" is written: ")[0] for line in named] == [
        shard.name for shard in reversed(PLAN.shards)
    ]
    assert all(line.endswith(f", {show_duration(65)} elapsed") for line in named)
    (line,) = said(chronicle, Completed(Path("dst")))
    assert line == "index, manifest and 0 other files are written to dst"


def test_the_first_line_counts() -> None:
    line = opening_line(PLAN)
    assert line.startswith("qwen3_moe, hub -> ")
    assert f", 0 files to {len(PLAN.shards)} shards, 2 workers" in line
    assert memory_line(PLAN).endswith(" at most")

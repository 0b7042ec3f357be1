"""Progress in words: what each line has at each width."""

import pytest
from rich.cells import cell_len

from streamconv.report.progress_facts import Progress
from streamconv.report.progress_lines import bar_lines, progress_fields, progress_line

HALF = Progress(
    "writing",
    total=61_100_000_000,
    done=22_600_000_000,
    seconds=12,
    rate=1.9e9,
    where="model.layers.17",
    shard=(6, 17),
)
FACTS = (
    *("writing", "37%", "22.6 GB of 61.1 GB", "1.90 GB/s", "12.0 s elapsed", "20.3 s left"),
    *("shard 6 of 17", "model.layers.17"),
)


def test_a_line_for_a_log() -> None:
    assert progress_line(HALF) == (
        "writing: 37%, 22.6 GB of 61.1 GB, 1.90 GB/s, 12.0 s elapsed, 20.3 s left, shard 6 of 17, "
        "model.layers.17"
    )


def test_things_that_are_no_bytes() -> None:
    families = Progress("converting", 48, 12, 3, 4.0, "qwen3_moe", None, "families")
    assert progress_line(families) == (
        "converting: 25%, 12 of 48 families, 3.0 s elapsed, 9.0 s left, qwen3_moe"
    )


def test_before_anything_is_known() -> None:
    """No percent, no rate, no time left that would be a guess."""
    assert progress_line(Progress("planning", seconds=3)) == "planning: 3.0 s elapsed"
    assert "left" not in progress_line(Progress("writing", total=10))
    (line,) = bar_lines(Progress("planning", seconds=3), 80)
    assert str(line) == "planning, 3.0 s elapsed"


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_every_fact_is_in_the_bar(width: int, ascii_only: bool) -> None:
    lines = [str(line) for line in bar_lines(HALF, width, ascii_only=ascii_only)]
    text = "\n".join(lines)
    assert all(cell_len(line) <= width for line in lines)
    shown = FACTS if width >= 80 else FACTS[:-1]
    assert [fact for fact in shown if fact not in text] == []
    assert text.isascii() == ascii_only
    done, left = ("#", "-") if ascii_only else ("━", "─")
    filled, empty = text.count(done), lines[0].count(left)
    if width >= 80:
        assert filled / (filled + empty) == pytest.approx(0.37, abs=0.1)
    assert len(lines) == (1 if width >= 130 else 2)


def test_what_has_no_room_is_cut_with_a_mark() -> None:
    lines = [str(line) for line in bar_lines(HALF, 40)]
    assert all(cell_len(line) < 40 for line in lines)
    assert lines[1].endswith("…")


def test_json() -> None:
    assert progress_fields(HALF) == {
        "schema": 2,
        "kind": "progress",
        "activity": "writing",
        "done": 22_600_000_000,
        "total": 61_100_000_000,
        "unit": "bytes",
        "rate_per_second": 1.9e9,
        "seconds": 12,
        "seconds_left": 20.263,
        "shard": 6,
        "shards": 17,
        "where": "model.layers.17",
    }

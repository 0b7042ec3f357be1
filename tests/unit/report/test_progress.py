"""Progress: a bar on a terminal, lines elsewhere, or nothing."""

import io
import time
from pathlib import Path

import pytest
from folders import (
    qwen_tensors,
    two_shards,
    write_checkpoint,
)
from rich.console import Console

import streamconv
from streamconv.execution.events import Event
from streamconv.report.progress import Bar, Lines, Silence


@pytest.fixture
def src(tmp_path: Path) -> Path:
    config = {"model_type": "qwen3_moe", "num_experts": 3}
    return write_checkpoint(tmp_path / "src", two_shards(qwen_tensors()), config)


def test_progress_bar_shows_layers_as_they_are_called(tmp_path: Path) -> None:
    """Also where their names look like the markup of the library that shows them."""
    tensors = qwen_tensors(prefix="[/b][red].")
    src = write_checkpoint(tmp_path / "src", {"model.safetensors": tensors})
    console = Console(file=io.StringIO(), force_terminal=True, width=120)

    def slowly(event: Event) -> None:
        bar(event)
        time.sleep(0.25)  # the bar is drawn ten times a second

    with Bar(console) as bar:
        streamconv.merge(src, tmp_path / "dst", on_event=slowly, max_shard_size=500)
    assert isinstance(console.file, io.StringIO)
    assert "[/b][red].layers." in console.file.getvalue()


def test_a_line_said_meanwhile_stays_above_the_bar() -> None:
    """Not on the bar's own line, where it would be half overwritten."""
    console = Console(file=io.StringIO(), force_terminal=True, width=40)
    said = "resuming: 1 of 2 shards are complete"
    with Bar(console) as bar:
        console.file.flush()
        bar.say(said)
    assert isinstance(console.file, io.StringIO)
    before, _, after = console.file.getvalue().partition(said)
    assert before.endswith("\r\x1b[2K"), "the bar has been erased, and nothing else"
    assert after.startswith("\n"), "the bar is drawn again below"


def test_progress_lines_where_there_is_no_terminal(src: Path, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=120)
    with Lines(console, every=0) as lines:
        streamconv.merge(src, tmp_path / "a", on_event=lines, max_shard_size=300)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue().splitlines()
    assert len(shown) > 2
    assert all(" of " in line and "/s, " in line and " left" in line for line in shown)
    with Lines(console) as lines:
        streamconv.merge(src, tmp_path / "b", on_event=lines)
    with Silence(console) as silence:
        streamconv.merge(src, tmp_path / "c", on_event=silence)
    assert console.file.getvalue().splitlines() == shown

"""Progress: a bar on a terminal, lines elsewhere, or nothing."""

import io
import itertools
import json
from pathlib import Path

import pytest
from folders import (
    qwen_tensors,
    two_shards,
    write_checkpoint,
)
from rich.console import Console

import streamconv
from streamconv.report.progress import Bar, Lines, Silence
from streamconv.report.progress_facts import Counted, CountStarted


@pytest.fixture
def src(tmp_path: Path) -> Path:
    config = {"model_type": "qwen3_moe", "num_experts": 3}
    return write_checkpoint(tmp_path / "src", two_shards(qwen_tensors()), config)


def text_of(console: Console) -> str:
    """Return what has been printed."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def console_of(width: int, **settings: bool) -> Console:
    return Console(file=io.StringIO(), width=width, **settings)  # type: ignore[arg-type]


def test_progress_bar_shows_layers_as_they_are_called(tmp_path: Path) -> None:
    """Also where their names look like the markup of the library that shows them."""
    tensors = qwen_tensors(prefix="[/b][red].")
    src = write_checkpoint(tmp_path / "src", {"model.safetensors": tensors})
    console = console_of(200, force_terminal=True)

    def drawn(event: object) -> None:
        bar(event)  # type: ignore[arg-type]
        console.print(bar, markup=False)

    with Bar(console) as bar:
        streamconv.merge(src, tmp_path / "dst", on_event=drawn, max_shard_size=500)
    assert "[/b][red].layers." in text_of(console)
    assert "shard 1 of " in text_of(console)


def test_the_bar_begins_with_what_is_done(src: Path, tmp_path: Path) -> None:
    """A line that stays above it."""
    console = console_of(80, force_terminal=True)
    with Bar(console) as bar:
        streamconv.merge(src, tmp_path / "dst", on_event=bar)
    assert "qwen3_moe, hub -> transformers, fused: " in text_of(console)


def test_a_line_said_meanwhile_stays_above_the_bar() -> None:
    """Not on the bar's own line, where it would be half overwritten."""
    console = console_of(40, force_terminal=True)
    said = "resuming: 1 of 2 shards are complete"
    with Bar(console) as bar:
        console.file.flush()
        bar.say(said)
    before, _, after = text_of(console).partition(said)
    assert before.endswith("\r\x1b[2K"), "the bar has been erased, and nothing else"
    assert after.startswith("\n"), "the bar is drawn again below"


def test_progress_lines_where_there_is_no_terminal(src: Path, tmp_path: Path) -> None:
    """The first line, then the facts; one line more if nothing took long; or none."""
    console = console_of(120)
    with Lines(console, every=0) as lines:
        streamconv.merge(src, tmp_path / "a", on_event=lines, max_shard_size=300)
    first, *shown = text_of(console).splitlines()
    assert first.startswith("qwen3_moe, hub -> transformers, fused: ")
    assert len(shown) > 2
    assert all("%, " in line and " of " in line and " elapsed" in line for line in shown)
    assert all("/s, " in line and " left" in line and ", shard " in line for line in shown)
    quick = console_of(120)
    with Lines(quick) as lines:
        streamconv.merge(src, tmp_path / "b", on_event=lines, max_shard_size=300)
    assert text_of(quick).splitlines() == [first]
    silent = console_of(120)
    with Silence(silent) as silence:
        streamconv.merge(src, tmp_path / "c", on_event=silence)
    assert text_of(silent) == ""


def test_a_line_now_and_then() -> None:
    """By the clock: not one for each event."""
    console = console_of(120)
    clock = itertools.count(0.0, 1.0)
    with Lines(console, every=10, clock=lambda: float(next(clock))) as lines:
        lines(CountStarted("converting", 45, "families"))
        for number in range(45):
            lines(Counted(f"f{number}"))
    assert [line.split(",")[1] for line in text_of(console).splitlines()[1:]] == [
        " 9 of 45 families",
        " 19 of 45 families",
        " 29 of 45 families",
        " 39 of 45 families",
    ]


def test_lines_of_json(src: Path, tmp_path: Path) -> None:
    """Every line is a document."""
    console = console_of(120)
    with Lines(console, every=0, as_json=True) as lines:
        lines.say("resuming")
        streamconv.merge(src, tmp_path / "a", on_event=lines, max_shard_size=300)
    documents = [json.loads(line) for line in text_of(console).splitlines()]
    assert len(documents) > 2
    assert {document["kind"] for document in documents} == {"progress"}


def test_verbose_runs_name_each_shard(src: Path, tmp_path: Path) -> None:
    """When it is written, and the memory before, and the end of everything else."""
    console = console_of(200)
    with Lines(console, verbose=True) as lines:
        result = streamconv.merge(
            src, tmp_path / "a", on_event=lines, max_shard_size=300, sha256=True, verify=True
        )
    shown = text_of(console)
    assert "memory: " in shown
    for shard in result.plan.shards:
        assert f"{shard.name} is written: " in shown
    assert "\nindex, manifest and " in shown
    assert "\ncomputing SHA-256 of " in shown
    assert "\nverifying " in shown
    for shard in result.plan.shards:
        assert f"\n{shard.name} is compared: " in shown


def test_verbose_verification(src: Path, tmp_path: Path) -> None:
    """Names each file when it is compared; and if only a part of it was, how much."""
    result = streamconv.merge(src, tmp_path / "a", max_shard_size=300)
    console = console_of(200)
    with Lines(console, verbose=True) as lines:
        streamconv.verify(src, tmp_path / "a", on_event=lines)
        streamconv.verify(src, tmp_path / "a", on_event=lines, sample=0.1)
    shown = text_of(console)
    for shard in result.plan.shards:
        assert shown.count(f"\n{shard.name} is compared") == 2
    assert "\nconfig.json is compared: " in shown
    assert " is compared in part: " in shown
    quiet = console_of(200)
    with Lines(quiet) as lines:
        streamconv.verify(src, tmp_path / "a", on_event=lines)
    assert "is compared" not in text_of(quiet)


@pytest.mark.parametrize("width", [80, 140])
def test_bar_of_a_verification(src: Path, tmp_path: Path, width: int) -> None:
    """Shows which shard of how many, and the tensor."""
    shards = len(streamconv.merge(src, tmp_path / "a", max_shard_size=300).plan.shards)
    console = console_of(width, force_terminal=True)

    def drawn(event: object) -> None:
        bar(event)  # type: ignore[arg-type]
        console.print(bar, markup=False, highlight=False)

    with Bar(console) as bar:
        streamconv.verify(src, tmp_path / "a", on_event=drawn)
    for number in range(1, shards + 1):
        assert f"shard {number} of {shards}, model." in text_of(console)

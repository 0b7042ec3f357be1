"""Random command lines about random sources end in words and in a bounded time.

Verbs and options are those that click has, so that a new one is drawn as well. The oracle is the
list of exit codes: whatever is typed, and whatever is read, no error is an unexpected one.
"""

import os
import random
import shutil
from pathlib import Path

import click
import pytest
from broken import sound
from broken_experts import EXPERTS
from broken_folders import FILES
from click.testing import CliRunner
from corpus import CORPUS
from folders import qwen_tensors, tree, write_checkpoint

import streamconv
from streamconv.cli import VERBS, cli
from streamconv.errors import StreamconvError

RUNS = 15
"""Command lines for each seed."""
NOT_DRAWN = ("smoke",)
"""It converts every family."""
VALUES = (
    *("", " ", "-", "--", "0", "1", "-1", "1/2", "2/2", "0/0", "9" * 5000, "1e400", "nan", "0:1"),
    *(":", "3:1", "1GB", "1GB/s", "0B", "100%", "5%", "true", "null", "a\nb", "\x1b[31m", "\udce9"),
    *("fused", "per-expert", "hub", "transformers", "mindspeed", "dcp", "safetensors", "bf16"),
    *(
        "*",
        "..",
        "/dev/null",
        "/dev/zero",
        "src",
        "src/config.json",
        "dst",
        "fifo",
        "none",
        "a" * 300,
    ),
    *("family.toml", "x=y", "[", "\N{SNOWMAN}", "file:///", "hf://", "hf:///@", "://", "a://b"),
)
"""What is typed for an option or argument. No value of a rate among them takes long."""
ARGUMENTS = ("src", "src", "src", "dst", "dst", "made", "dcp", *VALUES[:6], "none", "fifo")


def make_source(draw: random.Random, folder: Path) -> None:
    """Make a source: a sound one, one of the broken ones, or a file of the corpus."""
    kind = draw.randrange(3)
    if kind == 0:
        sound(folder)
    elif kind == 1:
        draw.choice([row for row in (*EXPERTS, *FILES) if row.src == "src"]).breaks(folder)
    else:
        write_checkpoint(folder, {"model.safetensors": qwen_tensors()})
        small = [case.raw for case in CORPUS if len(case.raw) < 100_000]
        (folder / "model.safetensors").write_bytes(draw.choice(small))


def draw_words(draw: random.Random) -> list[str]:
    """Draw a verb with options of its own, and now and then one that it does not have."""
    verb = draw.choice([verb for verb in VERBS if verb not in NOT_DRAWN])
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    words: list[str] = []
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            words.append(draw.choice(ARGUMENTS))
        elif draw.random() < 0.15:
            words.append(parameter.opts[-1])
            if not getattr(parameter, "is_flag", False):
                words.append(draw.choice(VALUES))
    if draw.random() < 0.1:
        words.insert(draw.randrange(len(words) + 1), draw.choice(("--nonsense", "-x", *VALUES)))
    if draw.random() < 0.2:
        draw.shuffle(words)
    return [verb, *words]


@pytest.fixture(scope="module")
def place(memory: Path) -> Path:
    """A folder with all that the values name but the source."""
    sound(memory / "sound")
    streamconv.merge(memory / "sound", memory / "place" / "made")
    streamconv.merge(memory / "sound", memory / "place" / "dcp", format="dcp")
    (memory / "place" / "family.toml").write_text("[families.x]\nmodel_types = 3\n")
    return memory / "place"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(20))
def test_random_command_lines(seed: int, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is an unexpected error, and the source is what it was."""
    draw = random.Random(seed)
    for number in range(RUNS):
        here = place.parent / f"run-{seed}-{number}"
        shutil.copytree(place, here)
        monkeypatch.chdir(here)
        make_source(draw, here / "src")
        os.mkfifo(here / "fifo")
        words = draw_words(draw)
        is_plain = all(path.is_file() or path.is_dir() for path in (here / "src").rglob("*"))
        before = tree(here / "src") if is_plain else None
        result = CliRunner().invoke(cli, words, standalone_mode=False)
        expected = (type(None), StreamconvError, click.ClickException, SystemExit, click.Abort)
        assert isinstance(result.exception, expected), (seed, words, result.exc_info)
        if isinstance(result.exception, StreamconvError):
            assert result.exception.exit_code != 1, (seed, words)
        assert "Traceback" not in result.output
        if before is not None:
            assert tree(here / "src") == before, (seed, words)
        monkeypatch.chdir(place)
        shutil.rmtree(here)

"""The README is true: its commands run, its tables are the tables, its tree is the tree."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import checkpoints
import click
import generate_docs
import pytest
import torch
from safetensors.torch import load_file, save_file

from streamconv.catalog.families import families
from streamconv.cli.convert import command as convert

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


MINE = ("my-checkpoint", "my-merged")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with small checkpoints under the names that the README uses."""
    place = tmp_path_factory.mktemp("readme")
    source = checkpoints.qwen3_moe(place / "Qwen3-30B-A3B", layers=3)
    checkpoints.quantized(source, place / "Qwen3-30B-A3B-FP8")
    (place / "mine.toml").write_text(blocks("toml")[0])
    mine = place / "my-checkpoint"
    mine.mkdir()
    (mine / "config.json").write_text(
        json.dumps({"model_type": "my_moe", "text_config": {"num_experts": 3}})
    )
    bank = "model.layers.0.moe.bank"
    tensors = {
        f"{bank}.gate_up_proj": torch.randn(10, 3, 4),
        f"{bank}.down_proj": torch.randn(4, 3, 5),
    }
    save_file(tensors, mine / "model.safetensors")
    return place


def run(folder: Path, *command: str) -> None:
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_commands_run(folder: Path) -> None:
    """Every `$ streamconv` line, in order, as a new user would type them."""
    lines = [line for block in blocks("console") for line in block.splitlines()]
    assert len(lines) > 5
    for line in lines:
        prompt, tool, *arguments = shlex.split(line)
        assert (prompt, tool) == ("$", "streamconv")
        run(folder, "-m", "streamconv", *arguments)


def test_the_example_of_a_family_moves_the_bytes(folder: Path) -> None:
    """What `--family` made of the user's own layout, by a formula of its own."""
    source, made = (load_file(folder / name / "model.safetensors") for name in MINE)
    moved = source["model.layers.0.moe.bank.gate_up_proj"].permute(1, 0, 2)
    assert made["model.layers.0.moe.experts.gate_up_proj"].equal(moved)
    assert made["model.layers.0.moe.experts.down_proj"].equal(
        source["model.layers.0.moe.bank.down_proj"].permute(1, 0, 2)
    )


def test_python_runs(folder: Path) -> None:
    """The example of the API."""
    (block,) = blocks("python")
    run(folder, "-c", block)


def test_tables_are_those_of_the_package() -> None:
    """`make tables` would change nothing."""
    assert generate_docs.written(README) == README
    assert all(f"`{name}`" in README for f in families().values() for name in f.model_types)


def test_options_are_all_named() -> None:
    """Every option of a conversion stands in the table of options."""
    for parameter in convert.params:
        names = [*parameter.opts, *parameter.secondary_opts]
        if isinstance(parameter, click.Option) and "--to" not in names:
            assert any(f"`{name}" in README for name in names), names


def test_the_tree_is_the_tree() -> None:
    """Every module of the package stands in the annotated tree, and nothing else."""
    (tree,) = (block for block in blocks("text") if block.startswith("streamconv/"))
    named = set(re.findall(r"^  (\S+?)/?\s", tree, re.MULTILINE))
    package = ROOT / "streamconv"
    modules = {path.name for path in package.glob("*.py")} - {"__main__.py"}
    folders = {path.name for path in package.iterdir() if path.is_dir()} - {"__pycache__"}
    assert named == modules | folders


def test_the_tests_it_names_are_there() -> None:
    """Every fault is shown by a test, which has that name."""
    named = set(re.findall(r"`(test_\w+)`", README))
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 20
    assert {test for test in named if f"def {test}(" not in tests} == set()


def test_links_lead_somewhere() -> None:
    """Links and pictures are files of the repository."""
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(targets) > 3
    for target in targets:
        assert (ROOT / target).exists(), target

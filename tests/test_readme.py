"""The README is true: its commands run, its tables are the tables, its tree is the tree."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import checkpoints
import click
import pytest

from streamconv.cli.convert import command as convert
from streamconv.families import FORMS, families
from streamconv.layouts import layouts

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with small checkpoints under the names that the README uses."""
    place = tmp_path_factory.mktemp("readme")
    source = checkpoints.qwen3_moe(place / "Qwen3-30B-A3B", layers=3)
    checkpoints.quantized(source, place / "Qwen3-30B-A3B-FP8")
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


def test_python_runs(folder: Path) -> None:
    """The example of the API."""
    (block,) = blocks("python")
    run(folder, "-c", block)


def test_layouts_are_those_of_the_table() -> None:
    """Each layout with its templates, word for word."""
    for name, layout in layouts().items():
        row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` |"))
        for weight in ("gate_up", "down"):
            template = layout.templates[weight]
            dims = " ".join(d[0] if len(d) == 1 else f"({' '.join(d)})" for d in template.dims)
            assert f"`{template.name} : {dims}`" in row
        assert layout.used_by in row


def test_families_are_those_of_the_table() -> None:
    """Each family with its model types, its layout in each form, the one that merging makes."""
    for family in families().values():
        types = ", ".join(f"`{name}`" for name in family.model_types)
        row = next(line for line in README.splitlines() if f"| {types} |" in line)
        cells = dict(zip(FORMS, [cell.strip() for cell in row.split("|")[3:6]], strict=True))
        for form, cell in cells.items():
            if form not in family.forms:
                assert cell == "none"
                continue
            made = {layout.name for _, layout in family.forms[form].layouts}
            assert {cell.replace("*", "").replace(",", " ").split()[0]} == made
            assert cell.startswith("**") == (family.merge == form)


def test_the_example_of_a_family_is_the_one_of_the_table() -> None:
    """Without its comments, the row in the README is the row in the package."""
    (block,) = blocks("toml")
    table = (ROOT / "streamconv" / "data" / "families.toml").read_text()
    for line in block.splitlines():
        assert line.partition("  #")[0].rstrip() in table


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
    folders = {path.name for path in package.iterdir() if path.is_dir()} - {"__pycache__", "data"}
    assert named == modules | folders


def test_links_lead_somewhere() -> None:
    """Links and pictures are files of the repository."""
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(targets) > 3
    for target in targets:
        assert (ROOT / target).exists(), target

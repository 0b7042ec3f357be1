"""A catalog is a value: a file of the user's makes another one and changes no other."""

from pathlib import Path

import pytest
from folders import qwen_tensors, read_checkpoint, two_shards, write_checkpoint

import streamconv
from streamconv.catalog.catalog import default_catalog, load_catalog
from streamconv.errors import BadCheckpoint, UsageError

MINE = """
[layouts.inner]
used_by = "nobody"
gate_up = "experts.{p}_all : h e i"
down = "experts.{d}_all : i e h"
[families.mine]
model_types = ["my_moe"]
merge = "transformers"
stacks = { "model.layers.*.mlp." = "" }
hub.layouts = { "*" = "per-expert" }
transformers.layouts = { "*" = "inner" }
"""
LAYOUT = MINE.partition("[families")[0]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Experts of a model type that no shipped family has."""
    config = {"model_type": "my_moe", "num_experts": 3}
    return write_checkpoint(tmp_path / "source", two_shards(qwen_tensors()), config)


def test_the_shipped_catalog_is_built_once() -> None:
    assert load_catalog(None) is default_catalog() is default_catalog()


def test_a_file_makes_another_catalog(mine: Path) -> None:
    """With all that is shipped; its families come first."""
    catalog, shipped = load_catalog(mine), default_catalog()
    family = catalog.find_family("my_moe")
    assert family is catalog.families["mine"]
    assert list(catalog.families) == ["mine", *shipped.families]
    assert list(catalog.layouts) == [*shipped.layouts, "inner"]
    assert "experts.gate_proj_all" in catalog.names_to_weights()
    assert shipped.find_family("my_moe") is None
    assert "experts.gate_proj_all" not in shipped.names_to_weights()
    with pytest.raises(UsageError, match="form or layout called 'inner'"):
        shipped.find_layout("inner")


def test_a_row_replaces_a_shipped_one(tmp_path: Path) -> None:
    """For all families that have it, of the catalog with that row alone."""
    path = tmp_path / "mine.toml"
    path.write_text(LAYOUT.replace("inner", "fused"))
    catalog = load_catalog(path)
    assert list(catalog.layouts) == list(default_catalog().layouts)
    for known, name in ((catalog, "experts.{p}_all"), (default_catalog(), "experts.gate_up_proj")):
        family = known.find_family("mixtral")
        assert family is not None
        layout = family.forms["transformers"].layout_of("model.layers.*.block_sparse_moe.")
        assert layout is known.layouts["fused"]
        assert layout.templates["gate_up"].name == name


@pytest.mark.parametrize("name", ["hub", "mindspeed", "same"])
def test_a_layout_that_could_not_be_asked_for(tmp_path: Path, name: str) -> None:
    """Its name is that of a form, or of what keeps all layouts."""
    path = tmp_path / "mine.toml"
    path.write_text(LAYOUT.replace("inner", name))
    with pytest.raises(UsageError, match=f"^cannot add the layout '{name}': "):
        load_catalog(path)


def test_a_family_of_the_user_wins(tmp_path: Path) -> None:
    """Over the shipped one of the same model type."""
    path = tmp_path / "mine.toml"
    path.write_text(MINE.replace("my_moe", "qwen3_moe"))
    found = [known.find_family("qwen3_moe") for known in (load_catalog(path), default_catalog())]
    assert [family and family.name for family in found] == ["mine", "qwen-moe"]


def test_a_conversion_with_a_file_leaves_the_shipped_catalog_alone(
    mine: Path, source: Path, tmp_path: Path
) -> None:
    """Two catalogs are in use in one process, and what is known to one is not to the other."""
    merged, back = tmp_path / "merged", tmp_path / "back"
    result = streamconv.merge(source, merged, family=mine, verify=True)
    assert result.plan.source.catalog is not default_catalog()
    assert default_catalog().find_family("my_moe") is None
    assert streamconv.plan(source).target.asked == "fused"
    with pytest.raises(UsageError, match="form or layout called 'inner'"):
        streamconv.plan(source, to="inner")
    with pytest.raises(BadCheckpoint, match="has no such form"):
        streamconv.plan(merged)
    assert "has no such form" in streamconv.inspect(merged).detected.refusals[""].message
    streamconv.split(merged, back, family=mine)
    assert read_checkpoint(back) == read_checkpoint(source)
    assert streamconv.inspect(back).detected.family is None


def test_a_recorded_layout_that_is_not_known(mine: Path, source: Path, tmp_path: Path) -> None:
    """The checkpoint of another catalog is refused, with what makes it known."""
    streamconv.convert(source, tmp_path / "inner", to="inner", family=mine)
    with pytest.raises(BadCheckpoint, match="names inner, which is not known") as caught:
        streamconv.plan(tmp_path / "inner")
    assert "--family" in caught.value.hint
    assert streamconv.inspect(tmp_path / "inner", family=mine).detected.stacks


def test_a_file_is_read_again(mine: Path, source: Path) -> None:
    """What is edited between two calls is what the second one sees."""
    assert streamconv.plan(source, family=mine).target.rows
    mine.write_text(MINE.replace('merge = "transformers"', 'merge = "stacked"'))
    assert streamconv.plan(source, family=mine).target.asked == "stacked"

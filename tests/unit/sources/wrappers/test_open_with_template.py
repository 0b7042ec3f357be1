"""Which options open which sources."""

from pathlib import Path

import pytest
from folders import qwen_tensors, two_shards, write_checkpoint

from streamconv.catalog.catalog import default_catalog
from streamconv.errors import BadCheckpoint, UsageError
from streamconv.sources.wrappers.open_with_template import open_with_template


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = {"model_type": "qwen3_moe"}
    return write_checkpoint(tmp_path / "source", two_shards(qwen_tensors()), config)


def test_without_a_template(folder: Path) -> None:
    with open_with_template(folder, default_catalog(), {}) as source:
        assert source.checkpoint.location == str(folder)
        assert source.checkpoint.template is None


def test_with_a_template(folder: Path) -> None:
    """Here the checkpoint itself, so that nothing is filled."""
    with open_with_template(folder, default_catalog(), {"template": folder}) as source:
        template = source.checkpoint.template
    assert template is not None
    assert (template.location, template.filled) == (str(folder), frozenset())


def test_filling_without_a_template(tmp_path: Path) -> None:
    """Refused before anything is opened."""
    opening = open_with_template(
        tmp_path / "missing", default_catalog(), {"fill_from_template": True}
    )
    with pytest.raises(UsageError) as caught, opening:
        pass
    assert caught.value.message == "cannot fill from a template: there is no template"


def test_a_template_that_is_missing(folder: Path) -> None:
    opening = open_with_template(
        folder, default_catalog(), {"template": folder.with_name("missing")}
    )
    with pytest.raises(BadCheckpoint, match="missing: it does not exist"), opening:
        pass

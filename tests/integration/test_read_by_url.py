"""What is read by a URL that leads to this machine is never removed."""

import json
from pathlib import Path

import pytest
from folders import qwen_tensors, tree, two_shards, write_checkpoint

import streamconv
from streamconv.cli import main
from streamconv.errors import OutputExists

CLEARED = ("out", "out.streamconv-partial", "out.streamconv-replaced")
"""The folders that a run may remove or rename."""
URLS = (
    "file://{path}",
    "file://~/{name}",
    "local://~/{name}",
    "file://{name}",
    "simplecache://::{path}",
    "simplecache::file://~/{name}",
    "filecache::local://{path}",
    "asyncwrapper::file://{path}",
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home and the working directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def checkpoint(folder: Path) -> Path:
    return write_checkpoint(folder, two_shards(qwen_tensors()), {"model_type": "qwen3_moe"})


@pytest.mark.parametrize("name", CLEARED)
@pytest.mark.parametrize("url", URLS)
def test_a_source_by_any_url(home: Path, url: str, name: str) -> None:
    source = checkpoint(home / name)
    location = url.format(path=source, name=name)
    before = tree(home)
    with pytest.raises(OutputExists, match=r"source .*overlap"):
        streamconv.merge(location, home / "out", overwrite=True)
    assert tree(home) == before
    with pytest.raises(SystemExit) as ended:
        main(["merge", location, str(home / "out"), "--overwrite", "--dry-run"])
    assert ended.value.code == 6
    with pytest.raises(OutputExists, match=r"source .*overlap"):
        streamconv.merge(location, source / "below")
    assert tree(home) == before


@pytest.mark.parametrize("url", URLS)
def test_a_template_by_any_url(home: Path, url: str) -> None:
    streamconv.merge(checkpoint(home / "hub"), home / "dcp", format="dcp")
    template = checkpoint(home / "out")
    location = url.format(path=template, name="out")
    before = tree(home)
    with pytest.raises(OutputExists, match=r"--template .*overlap"):
        streamconv.split(home / "dcp", home / "out", template=location, overwrite=True)
    assert tree(home) == before


def test_local_files_that_the_url_does_not_name(home: Path) -> None:
    """Files that are put together of any others: no target is apart from them."""
    files = checkpoint(home / "src").iterdir()
    parts = {f"src/{path.name}": [str(path), 0, path.stat().st_size] for path in files}
    (home / "parts.json").write_text(json.dumps(parts))
    location = "reference://src::file://~/parts.json"
    assert streamconv.inspect(location).checkpoint.tensors
    with pytest.raises(OutputExists, match="source may be read from any folder"):
        streamconv.merge(location, home / "out")

"""What a request means later: in another folder, and after a branch has moved."""

from dataclasses import replace
from pathlib import Path

import pytest
from memory_source import MemorySource

from streamconv.execution.pinning import pin_request, resumed_source
from streamconv.execution.request import ConversionRequest
from streamconv.options import Options

COMMIT = "c0ffee"


def source_at(location: str, revision: str | None = None) -> MemorySource:
    source = MemorySource({}, location=location)
    source.checkpoint = replace(source.checkpoint, revision=revision)
    return source


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a request can name; other options stay."""
    monkeypatch.chdir(tmp_path)
    request = ConversionRequest(
        "src", "out", options={"family": "own.toml", "template": "hf", "layers": "0:1"}
    )
    pinned = pin_request(request, source_at("src"))
    here = Path.cwd()
    assert (pinned.src, pinned.dst) == (f"{here}/src", f"{here}/out")
    assert pinned.options == {
        "family": f"{here}/own.toml",
        "template": f"{here}/hf",
        "layers": "0:1",
    }


def test_the_folder_above_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the one above the target of the link, from which the parts have read."""
    (tmp_path / "disk" / "folder").mkdir(parents=True)
    (tmp_path / "link").symlink_to("disk/folder")
    monkeypatch.chdir(tmp_path)
    options: Options = {"family": "link/../own.toml", "template": "link/../hf"}
    request = ConversionRequest("link/../src", "link/../out", options=options)
    pinned = pin_request(request, source_at("link/../src"))
    disk = f"{Path.cwd()}/disk"
    assert (pinned.src, pinned.dst) == (f"{disk}/src", f"{disk}/out")
    assert pinned.options == {"family": f"{disk}/own.toml", "template": f"{disk}/hf"}


@pytest.mark.parametrize("location", ["hf://org/name", "hf://org/name/", "hf://org/name@main"])
def test_a_branch_becomes_a_commit(location: str) -> None:
    """The one at which the source is open."""
    pinned = pin_request(ConversionRequest(location, "out"), source_at(location, COMMIT))
    assert pinned.src == f"hf://org/name@{COMMIT}"


def test_urls_stay() -> None:
    """Of a template, too."""
    request = ConversionRequest("memory://a", "out", options={"template": "hf://org/name"})
    pinned = pin_request(request, source_at("memory://a"))
    assert pinned.src == "memory://a"
    assert pinned.options["template"] == "hf://org/name"


@pytest.mark.parametrize(
    ("stored", "src", "resumed"),
    [
        ("hf://org/name@c0ffee", "hf://org/name", "hf://org/name@c0ffee"),
        ("hf://org/name@c0ffee", "hf://org/name/", "hf://org/name@c0ffee"),
        ("hf://org/name@c0ffee", "hf://org/name@main", "hf://org/name@c0ffee"),
        ("hf://org/name@c0ffee", "hf://org/name@v2", "hf://org/name@v2"),
        ("hf://org/name@c0ffee", "hf://org/other", "hf://org/other"),
        ("/some/folder", "/some/folder", "/some/folder"),
        (None, "hf://org/name", "hf://org/name"),
    ],
)
def test_the_source_of_a_resumed_run(
    stored: str | None, src: str, resumed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The commit that the earlier run has stored, if the same branch of it is asked for."""
    dst = tmp_path / "out"
    if stored is not None:
        raw = ConversionRequest(stored, dst).to_json()
        monkeypatch.setattr(
            "streamconv.sinks.journal_files.load_request", lambda target: (raw, "request")
        )
    assert resumed_source(ConversionRequest(src, dst, resume=True)) == resumed

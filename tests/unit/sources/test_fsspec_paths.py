"""The paths of this machine that a file system of fsspec reads, whatever it stands in front of."""

import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.core import url_to_fs

from streamconv.sources.fsspec_paths import ANYWHERE, paths_read


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The home and the working directory, with a folder `src` and archives."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "x").write_text("x")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "src" / "x", "src/x")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "src" / "x", "src/x")
    (tmp_path / "refs.json").write_text(f'{{"src/x": ["{tmp_path}/src/x", 0, 1]}}')
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    fsspec.filesystem("memory").pipe("/bucket/src/x", b"x")
    yield tmp_path
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("file://{place}/src", "src"),
        ("file://~/src", "src"),
        ("file:///{place}/x/../src", "src"),
        ("local://{place}/src", "src"),
        ("file://src", "src"),
        ("simplecache::{place}/src", "src"),
        ("simplecache://::{place}/src", "src"),
        ("filecache::file://~/src", "src"),
        ("blockcache::local://{place}/src", "src"),
        ("cached::simplecache::file://{place}/src", "src"),
        ("asyncwrapper::file://{place}/src", "src"),
        ("dir://src::file://{place}", "src"),
        ("zip://src::{place}/a.zip", "a.zip"),
        ("zip://src::file://~/a.zip", "a.zip"),
        ("tar://src::file://~/a.tar", "a.tar"),
        ("simplecache::zip://src::file://~/a.zip", "a.zip"),
        ("zip://src::simplecache::file://~/a.zip", "a.zip"),
    ],
)
def test_local_files_by_any_url(place: Path, url: str, read: str) -> None:
    found = paths_read(*url_to_fs(url.format(place=place)))
    assert place / read in [Path(os.path.realpath(path)) for path in found]
    assert ANYWHERE not in found


@pytest.mark.parametrize("url", ["memory://bucket/src", "dir://src::memory://bucket"])
def test_files_elsewhere(place: Path, url: str) -> None:
    assert paths_read(*url_to_fs(url)) == ()


@pytest.mark.parametrize("kind", ["simplecache", "filecache", "blockcache"])
def test_a_folder_of_copies(place: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of files elsewhere: in the settings, or one of the system's for temporary files."""
    monkeypatch.setattr("tempfile.tempdir", str(place / "src"))
    (folder,) = paths_read(*url_to_fs(f"{kind}::memory://bucket/src"))
    assert folder.parent == place / "src"
    monkeypatch.setitem(fsspec.config.conf, kind, {"cache_storage": "copies"})
    assert paths_read(*url_to_fs(f"{kind}::memory://bucket/src")) == (Path("copies"),)


def test_files_that_are_not_named(place: Path) -> None:
    """References to any local file."""
    assert ANYWHERE in paths_read(*url_to_fs("reference://src::file://~/refs.json"))

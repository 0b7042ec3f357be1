"""Which names and links are followed."""

import os
from pathlib import Path

import pytest

from streamconv.errors import BadCheckpoint, IOFailed
from streamconv.sources.safe_paths import convert_os_errors, is_below, is_shard_name, resolve_file
from streamconv.system.linux_file_ops import LinuxFiles


@pytest.mark.parametrize("name", ["a", "a.b", "a/b", "...", "a/..b", ".hidden", "ä", "x" * 255])
def test_names_below(name: str) -> None:
    assert is_below(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "/", "/a", "a/", "./a", "a/./b", "a//b", "../a", "a/..", "a/../b"),
        *("a\\b", "\\a", "C:a", "C:\\a", "\\\\host\\a", "a:b", "a\0", "a\n", "a\x1b[m", "x" * 256),
    ],
)
def test_names_that_are_not_below_or_not_on_every_system(name: str) -> None:
    assert not is_below(name)


def test_names_of_shards() -> None:
    assert is_shard_name("a/model.safetensors")
    assert not is_shard_name("model.bin")
    assert not is_shard_name("../model.safetensors")


def test_a_file_is_resolved(tmp_path: Path) -> None:
    """A link inside the folder too."""
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        path, status = resolve_file(tmp_path, name, LinuxFiles())
        assert (path, status.st_size) == (tmp_path.resolve() / "file", 4)


def test_links_of_the_hubs_cache(tmp_path: Path) -> None:
    """Blobs of the same repository, and nothing else outside of the snapshot."""
    repo = tmp_path / "models--org--name"
    snapshot = repo / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    for folder in ("blobs", "refs"):
        (repo / folder).mkdir()
        (repo / folder / "x").touch()
        (snapshot / folder).symlink_to(f"../../{folder}/x")
    assert resolve_file(snapshot, "blobs", LinuxFiles())[0] == (repo / "blobs" / "x").resolve()
    with pytest.raises(BadCheckpoint, match="outside of the checkpoint"):
        resolve_file(snapshot, "refs", LinuxFiles())


def test_what_is_no_file_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "outside").touch()
    (folder / "out").symlink_to("../outside")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    for name, fact in (
        ("none", "cannot read none: it is missing from"),
        ("out", "outside of the checkpoint"),
        ("loop", "cannot open loop"),
        ("sub", "not a regular file"),
        ("pipe", "not a regular file"),
    ):
        with pytest.raises(BadCheckpoint, match=fact):
            resolve_file(folder, name, LinuxFiles())


def test_errors_of_the_system_name_the_path() -> None:
    with pytest.raises(IOFailed) as caught, convert_os_errors("the/path"):
        raise OSError(5, "Input/output error")
    assert caught.value.message == "cannot look at the/path: Input/output error"

"""What a run reads is held apart from what it may remove, under whatever names."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from shard_plans import plan_of

from streamconv.checkpoint.types import OtherFile
from streamconv.errors import OutputExists
from streamconv.options import Options
from streamconv.sinks.overlap import (
    ReadPath,
    check_apart,
    check_not_read,
    option_paths,
    source_paths,
)
from streamconv.sinks.run_paths import RunPaths
from streamconv.system.identity import identity_of

CLEARED = ("out", "out.streamconv-partial", "out.streamconv-replaced")
"""The folders that a run may remove or rename."""


def plain(path: Path) -> Path:
    return path


def by_a_link(path: Path) -> Path:
    link = path.parent.parent / "link"
    link.symlink_to(path.parent)
    return link / path.name


def as_a_link(path: Path) -> Path:
    link = path.parent.parent / "link"
    link.symlink_to(path)
    return link


def by_dots(path: Path) -> Path:
    (path.parent.parent / "some" / "where").mkdir(parents=True, exist_ok=True)
    return path.parent.parent / "some" / "where" / ".." / ".." / path.parent.name / path.name


def relative(path: Path) -> Path:
    os.chdir(path.parent)
    return Path(path.name)


WAYS = (plain, by_a_link, as_a_link, by_dots, relative)
"""Other names of a path."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """The folder of a target; the working directory is as before after the test."""
    here = Path.cwd()
    (tmp_path / "place").mkdir()
    yield tmp_path / "place"
    os.chdir(here)


@pytest.mark.parametrize("name", CLEARED)
@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_read_is_or_lies_below_what_is_removed(
    place: Path, name: str, below: bool, way: Callable[[Path], Path]
) -> None:
    """Both paths are named, and one path once."""
    folder = place / name / "deep" / "read" if below else place / name
    folder.mkdir(parents=True)
    for role in ("source", "--template"):
        read = way(folder)
        with pytest.raises(OutputExists, match="overlap") as caught:
            check_apart(RunPaths(place / "out"), [ReadPath(role, read)])
        assert str(place / "out") in caught.value.message
        assert role in caught.value.message
        assert re.split(r"[\s:,;]+", caught.value.message).count(str(read)) == 1
        if read.is_symlink() or read.parent.is_symlink():
            return


@pytest.mark.parametrize("name", CLEARED)
def test_a_single_file_below_what_is_removed(place: Path, name: str) -> None:
    (place / name).mkdir()
    (place / name / "families.toml").touch()
    with pytest.raises(OutputExists, match="--family"):
        check_apart(RunPaths(place / "out"), [ReadPath("--family", place / name / "families.toml")])


@pytest.mark.parametrize("name", ["out.streamconv-lock-1", "out.streamconv-journal-1.jsonl"])
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_lock_or_journal_that_leads_to_what_is_read(
    place: Path, name: str, link: Callable[[Path, Path], None]
) -> None:
    """It would be emptied or written to."""
    (place / "src").mkdir()
    (place / "src" / "config.json").touch()
    link(place / "src" / "config.json", place / name)
    read = ReadPath("source", place / "src", ("config.json",))
    with pytest.raises(OutputExists, match="overlap"):
        check_apart(RunPaths(place / "out"), [read])


@pytest.mark.parametrize("target", ["src/out", "src/notes/out", "link/out", "src/a/b/out"])
def test_a_target_below_what_is_read(place: Path, target: str) -> None:
    (place / "src" / "notes").mkdir(parents=True)
    (place / "link").symlink_to("src/notes")
    read = ReadPath("source", place / "src", ("notes/x",))
    with pytest.raises(OutputExists, match=r"target and source .* overlap"):
        check_apart(RunPaths(place / target), [read])


def test_files_behind_links(place: Path) -> None:
    """A file of the source that is a link into the former target."""
    (place / "out").mkdir()
    (place / "out" / "model.safetensors").touch()
    (place / "src").mkdir()
    (place / "src" / "model.safetensors").symlink_to("../out/model.safetensors")
    plan = plan_of([10], place / "src", others=(OtherFile("model.safetensors", 0),))
    with pytest.raises(OutputExists, match="overlap"):
        check_apart(RunPaths(place / "out"), source_paths(plan))


def test_paths_that_only_look_alike(place: Path) -> None:
    """Neighbors, and folders that hold both."""
    sources = ("src", "out-src", "out.streamconv-journal-src", "out.streamconv-lock-old")
    for name in ("out", "out.streamconv-partial", *sources):
        (place / name).mkdir()
    for name in sources:
        check_apart(RunPaths(place / "out"), [ReadPath("source", place / name)])
    (place / "families.toml").touch()
    check_apart(RunPaths(place / "out"), [ReadPath("--family", place / "families.toml")])
    check_apart(RunPaths(place / "new" / "out"), [ReadPath("source", place / "src")])


def test_a_hard_link_in_what_is_removed(place: Path) -> None:
    """Found among the files that will be removed."""
    (place / "families.toml").touch()
    (place / "out").mkdir()
    (place / "out" / "other.toml").hardlink_to(place / "families.toml")
    identity = identity_of(place / "out" / "other.toml")
    assert identity is not None
    removed = [(place / "out" / "other.toml", identity)]
    reads = [ReadPath("--family", place / "families.toml")]
    check_not_read(RunPaths(place / "out"), [], reads)
    with pytest.raises(OutputExists, match=r"other\.toml, .*--family"):
        check_not_read(RunPaths(place / "out"), removed, reads)


def test_a_bind_mount(place: Path) -> None:
    """The same folder at two places."""
    for name in ("out", "there"):
        (place / name).mkdir()
    (place / "out" / "src").mkdir()
    words = ["mount", "--bind", str(place / "out"), str(place / "there")]
    if subprocess.run(words, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        with pytest.raises(OutputExists, match="overlap"):
            check_apart(RunPaths(place / "out"), [ReadPath("source", place / "there" / "src")])
    finally:
        subprocess.run(["umount", str(place / "there")], check=True)


def test_the_paths_of_options() -> None:
    """A file of families is never a URL."""
    options: Options = {"template": "file:///t", "family": "a://b.toml"}
    assert option_paths(options) == (ReadPath("--family", Path.cwd() / "a:/b.toml"),)
    assert option_paths({}) == ()


def test_a_folder_behind_a_link(place: Path) -> None:
    """A folder below what is read that is a link to the former target."""
    (place / "out").mkdir()
    (place / "out" / "x").touch()
    (place / "src").mkdir()
    (place / "src" / "notes").symlink_to("../out")
    with pytest.raises(OutputExists, match="overlap"):
        check_apart(RunPaths(place / "out"), [ReadPath("source", place / "src", ("notes/x",))])

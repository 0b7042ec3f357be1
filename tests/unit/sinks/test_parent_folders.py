"""The folders above a target, if they are missing."""

from pathlib import Path

from streamconv.sinks.parent_folders import ParentFolders
from streamconv.system.file_ops import Files


def test_those_that_a_run_made_are_removed_if_they_are_empty(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    parents = ParentFolders(tmp_path / "a" / "b" / "c" / "out", Files())
    parents.make()
    assert (tmp_path / "a" / "b" / "c").is_dir()
    parents.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert [*(tmp_path / "a").iterdir()] == []
    parents.make()
    (tmp_path / "a" / "b" / "other").touch()
    parents.remove()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["other"]


def test_those_that_were_there_stay(tmp_path: Path) -> None:
    """Also if another run has made them meanwhile."""
    first, second = (ParentFolders(tmp_path / "a" / "out", Files()) for _ in range(2))
    first.make()
    second.make()
    second.remove()
    assert (tmp_path / "a").is_dir()
    first.remove()
    assert not (tmp_path / "a").exists()

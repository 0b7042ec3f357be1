"""Replacing a target: every state that a crash can leave, and how the next run recovers it."""

from pathlib import Path

import pytest
from folders import tree
from shard_plans import names

from streamconv.errors import OutputExists
from streamconv.sinks.replace import TargetReplacement
from streamconv.sinks.run_paths import RunPaths
from streamconv.system.file_ops import Files

FORMER, RESULT = {"former": b"1"}, {"result": b"2"}


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path / "out")


def fill(folder: Path, content: dict[str, bytes]) -> None:
    """Make a folder with these files."""
    folder.mkdir()
    for name, data in content.items():
        (folder / name).write_bytes(data)


def replacement(paths: RunPaths, overwrite: bool, files: Files | None = None) -> TargetReplacement:
    return TargetReplacement(paths, overwrite, files or Files())


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_target_that_is_not_empty_needs_overwrite(paths: RunPaths, overwrite: bool) -> None:
    fill(paths.target, FORMER)
    if overwrite:
        replacement(paths, overwrite).check(False)
    else:
        with pytest.raises(OutputExists, match="not empty") as caught:
            replacement(paths, overwrite).check(False)
        assert "--overwrite" in caught.value.hint


def test_an_empty_target_is_accepted(paths: RunPaths) -> None:
    """It counts as none; and so does a target that does not exist."""
    replacement(paths, False).check(False)
    paths.target.mkdir()
    replacement(paths, False).check(False)


def test_a_crash_before_the_result_has_its_name(paths: RunPaths) -> None:
    """The former target gets its name back."""
    fill(paths.replaced, FORMER)
    with pytest.raises(OutputExists, match="not empty"):
        replacement(paths, False).check(False)
    replacement(paths, False).recover(False)
    assert tree(paths.target) == FORMER
    assert names(paths.parent) == ["out"]


def test_a_crash_after_the_result_has_its_name(paths: RunPaths) -> None:
    """The former target is removed by a run that may overwrite; another one is refused."""
    fill(paths.replaced, FORMER)
    fill(paths.target, RESULT)
    with pytest.raises(OutputExists, match="replaced exists"):
        replacement(paths, False).check(True)
    replacement(paths, False).recover(True)
    assert tree(paths.replaced) == FORMER
    replacement(paths, True).check(True)
    replacement(paths, True).recover(True)
    assert tree(paths.target) == RESULT
    assert names(paths.parent) == ["out"]


def test_nothing_is_removed_if_the_target_may_not_be_the_result(paths: RunPaths) -> None:
    """Somebody has put a folder there: both stay, even with --overwrite."""
    fill(paths.replaced, FORMER)
    fill(paths.target, RESULT)
    with pytest.raises(OutputExists, match="replaced exists"):
        replacement(paths, True).check(False)
    replacement(paths, True).recover(False)
    assert tree(paths.replaced) == FORMER
    assert tree(paths.target) == RESULT


@pytest.mark.parametrize("former", [None, FORMER])
def test_a_commit(paths: RunPaths, former: dict[str, bytes] | None) -> None:
    """The result has the name of the target; the former one stays until the cleanup."""
    if former is not None:
        fill(paths.target, former)
    fill(paths.partial, RESULT)
    commit = replacement(paths, True)
    commit.commit(paths.partial)
    assert tree(paths.target) == RESULT
    assert paths.replaced.exists() == (former is not None)
    commit.cleanup()
    assert names(paths.parent) == ["out"]


@pytest.mark.parametrize("failing", ["out", "out.streamconv-partial"])
def test_a_commit_that_fails_puts_the_former_target_back(paths: RunPaths, failing: str) -> None:
    """Whichever of its two renames fails."""

    class Failing(Files):
        def rename(self, source: Path, target: Path) -> None:
            if source.name == failing:
                raise PermissionError(1, "Operation not permitted")
            super().rename(source, target)

    fill(paths.target, FORMER)
    fill(paths.partial, RESULT)
    with pytest.raises(PermissionError):
        replacement(paths, True, Failing()).commit(paths.partial)
    assert tree(paths.target) == FORMER
    assert tree(paths.partial) == RESULT
    assert names(paths.parent) == ["out", "out.streamconv-partial"]


def test_parents_are_removed_if_this_run_made_them_and_they_are_empty(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    first = replacement(RunPaths(tmp_path / "a" / "b" / "c" / "out"), False)
    first.make_parents()
    first.remove_parents()
    assert names(tmp_path / "a") == []
    first.make_parents()
    (tmp_path / "a" / "b" / "other").touch()
    first.remove_parents()
    assert names(tmp_path / "a" / "b") == ["other"]

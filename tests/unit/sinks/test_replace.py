"""Replacing a target: every state that a crash can leave, and how the next run recovers it."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from folders import tree
from shard_plans import names

from streamconv.errors import IOFailed, OutputExists
from streamconv.sinks.replace import TargetReplacement
from streamconv.sinks.run_paths import RunPaths
from streamconv.system.file_ops import Files
from streamconv.system.planted import PlantedFile

FORMER = {"config.json": b"{}", "model.safetensors": b"1", "README.md": b"1"}
RESULT = {"result": b"2"}


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
    commit.check(False)
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
    commit = replacement(paths, True, Failing())
    commit.check(False)
    with pytest.raises(PermissionError):
        commit.commit(paths.partial)
    assert tree(paths.target) == FORMER
    assert tree(paths.partial) == RESULT
    assert names(paths.parent) == ["out", "out.streamconv-partial"]


def test_a_target_that_cannot_be_renamed(paths: RunPaths) -> None:
    """As in a lower layer of an overlay: it has to be moved by hand, which the hint says."""

    class Layered(Files):
        def rename(self, source: Path, target: Path) -> None:
            if source == paths.target:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            super().rename(source, target)

    fill(paths.target, FORMER)
    fill(paths.partial, RESULT)
    commit = replacement(paths, True, Layered())
    commit.check(False)
    with pytest.raises(IOFailed, match="cannot rename it") as caught:
        commit.commit(paths.partial)
    assert caught.value.hint == "move it elsewhere, and run the same command with --resume"
    assert tree(paths.target) == FORMER
    paths.target.rename(paths.parent / "elsewhere")
    commit.commit(paths.partial)
    assert tree(paths.target) == RESULT


# --- what was not listed is never removed -------------------------------------------------------


def add(folder: Path) -> None:
    (folder / "mine.txt").write_text("mine")


def change(folder: Path) -> None:
    (folder / "README.md").write_text("changed meanwhile")


def nest(folder: Path) -> None:
    (folder / "mine").mkdir()


@pytest.mark.parametrize("meanwhile", [add, change, nest])
@pytest.mark.parametrize("moment", ["before", "between"])
def test_a_target_that_changes_during_the_run_is_kept(
    paths: RunPaths, meanwhile: Callable[[Path], None], moment: str
) -> None:
    """Before the commit, or after the former target was renamed: it is put back as it is then."""

    class Busy(Files):
        def rename(self, source: Path, target: Path) -> None:
            super().rename(source, target)
            if target == paths.replaced:
                meanwhile(paths.replaced)

    fill(paths.target, FORMER)
    fill(paths.partial, RESULT)
    commit = replacement(paths, True, Busy() if moment == "between" else None)
    commit.check(False)
    if moment == "before":
        meanwhile(paths.target)
    with pytest.raises(OutputExists, match=r"it is not as it was .*(mine|README)"):
        commit.commit(paths.partial)
    assert names(paths.parent) == ["out", "out.streamconv-partial"]
    assert tree(paths.target).keys() >= FORMER.keys()
    if meanwhile is add:
        assert (paths.target / "mine.txt").read_text() == "mine"


def put_file(path: Path) -> None:
    path.write_text("mine")


def put_link(path: Path) -> None:
    path.symlink_to(path.parent)


def put_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def put_folder(path: Path) -> None:
    fill(path, FORMER)


def test_an_empty_folder_of_another_user_is_replaced(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an administrator or a volume of a container makes it; not if something appears in it."""
    paths.target.mkdir()
    fill(paths.partial, RESULT)
    monkeypatch.setattr("os.geteuid", lambda: 4343)
    commit = replacement(paths, False)
    commit.check(False)
    add(paths.target)
    with pytest.raises(OutputExists, match=r"it is not as it was .*mine\.txt \(new\)"):
        commit.commit(paths.partial)
    (paths.target / "mine.txt").unlink()
    commit.commit(paths.partial)
    assert tree(paths.target) == RESULT


THINGS = [put_file, put_link, put_dangling_link, os.mkfifo, put_folder]


@pytest.mark.parametrize("put", THINGS)
@pytest.mark.parametrize("former", [None, FORMER])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_appears_under_the_name_of_the_target_is_kept(
    paths: RunPaths, put: Callable[[Path], None], former: dict[str, bytes] | None, overwrite: bool
) -> None:
    """Also if the target was replaced by it, or moved away. Nothing is renamed."""
    if former is not None:
        fill(paths.target, {} if not overwrite else former)
    fill(paths.partial, RESULT)
    commit = replacement(paths, overwrite)
    commit.check(False)
    if former is not None:
        paths.target.rename(paths.parent / "moved")
    put(paths.target)
    before = paths.target.lstat()
    with pytest.raises(OutputExists, match=r"out: (something that is not a folder|it is not as)"):
        commit.commit(paths.partial)
    assert paths.target.lstat().st_ino == before.st_ino
    assert tree(paths.partial) == RESULT
    assert "out.streamconv-replaced" not in names(paths.parent)


@pytest.mark.parametrize("put", THINGS)
@pytest.mark.parametrize("former", [None, FORMER])
def test_what_appears_under_the_name_of_the_former_target_is_kept(
    paths: RunPaths, put: Callable[[Path], None], former: dict[str, bytes] | None
) -> None:
    """A run that has nothing to replace leaves it alone; another one is refused."""
    if former is not None:
        fill(paths.target, former)
    fill(paths.partial, RESULT)
    commit = replacement(paths, True)
    commit.check(False)
    put(paths.replaced)
    before = paths.replaced.lstat()
    if former is None:
        commit.commit(paths.partial)
        commit.cleanup()
    else:
        with pytest.raises(OutputExists, match="replaced exists"):
            commit.commit(paths.partial)
        assert tree(paths.target) == former
    assert paths.replaced.lstat().st_ino == before.st_ino
    if put is put_folder:
        assert tree(paths.replaced) == FORMER


def test_a_link_in_the_place_of_the_partial_folder_is_no_result(paths: RunPaths) -> None:
    files = Files()
    files.guard(paths.parent, paths.own_prefix)
    fill(paths.parent / "elsewhere", RESULT)
    paths.partial.symlink_to("elsewhere")
    with pytest.raises(PlantedFile, match="symbolic link"):
        replacement(paths, False, files).commit(paths.partial)
    assert not paths.target.is_symlink()


@pytest.mark.parametrize("meanwhile", [add, change, nest])
def test_what_appears_while_the_former_target_is_removed_is_kept(
    paths: RunPaths, meanwhile: Callable[[Path], None]
) -> None:
    """The result stands, and the folder that was kept is named."""
    fill(paths.target, FORMER)
    fill(paths.partial, RESULT)
    commit = replacement(paths, True)
    commit.check(False)
    commit.commit(paths.partial)
    meanwhile(paths.replaced)
    with pytest.raises(OutputExists, match=r"cannot remove .*out\.streamconv-replaced/(mine|REA)"):
        commit.cleanup()
    assert tree(paths.target) == RESULT
    assert len(names(paths.replaced)) == 1


@pytest.mark.parametrize("removed", range(4))
def test_a_removal_that_was_cut_short_is_completed(paths: RunPaths, removed: int) -> None:
    """After each of its calls: the rest is still known to be a checkpoint's."""

    class Dying(Files):
        left = removed

        def unlink(self, path: Path) -> None:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            super().unlink(path)

    code = {"config.json": b'{"auto_map": {"AutoModel": "modeling_x.Model"}}'}
    fill(paths.target, {**FORMER, **code, "modeling_x.py": b"code"})
    fill(paths.partial, RESULT)
    commit = replacement(paths, True, Dying())
    commit.check(False)
    commit.commit(paths.partial)
    with pytest.raises(KeyboardInterrupt):
        commit.cleanup()
    assert len(names(paths.replaced)) == 4 - removed
    replacement(paths, True).recover(True)
    assert names(paths.parent) == ["out"]


def test_something_else_in_a_folder_that_was_replaced(paths: RunPaths) -> None:
    """The next run refuses to remove it, by its name."""
    fill(paths.target, RESULT)
    fill(paths.replaced, {**FORMER, "mine.txt": b"mine"})
    for attempt in (replacement(paths, True).recover, replacement(paths, True).check):
        with pytest.raises(OutputExists, match=r"replaced/mine\.txt"):
            attempt(True)
    assert tree(paths.replaced) == {**FORMER, "mine.txt": b"mine"}

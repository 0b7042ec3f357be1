"""The names next to a target, which later versions must find again."""

from pathlib import Path

import pytest

from streamconv.errors import UsageError
from streamconv.sinks.run_paths import RunPaths, target_of

PATHS = RunPaths(Path("/data/out"))


def test_the_names_are_those_of_earlier_versions() -> None:
    """A run that an earlier version has left is found by them."""
    assert PATHS.partial == Path("/data/out.streamconv-partial")
    assert PATHS.replaced == Path("/data/out.streamconv-replaced")
    assert PATHS.lock(3) == Path("/data/out.streamconv-lock-3")
    assert PATHS.lock(3).name.startswith(PATHS.lock_prefix)
    assert PATHS.journal(3) == PATHS.partial / "streamconv-journal-3.jsonl"
    assert PATHS.request == PATHS.partial / "streamconv-journal-command.json"
    assert PATHS.listing == PATHS.partial / "streamconv-journal-target.txt"


def test_other_names_that_begin_alike_are_not_ours() -> None:
    """Copies that somebody has made of the files of a run, say."""
    ours = ["1.jsonl", "12.new", "1.command", "1.target", "command.json", "target.txt"]
    assert all(PATHS.is_journal(f"streamconv-journal-{name}") for name in ours)
    for name in (*(f"{name}.bak" for name in ours), "x.jsonl", "\u0661.jsonl", "notes.md", ""):
        assert not PATHS.is_journal(f"streamconv-journal-{name}")
    for number in ("1.old", "", "x", "\u0661"):
        assert not PATHS.is_lock(f"out.streamconv-lock-{number}")
    assert PATHS.is_lock("out.streamconv-lock-12")
    assert not PATHS.is_lock("other.streamconv-lock-1")


def test_journals_are_moved_there_and_back() -> None:
    """The name next to the target tells which target it belongs to."""
    for path in (PATHS.journal(1), PATHS.request, PATHS.listing):
        moved = PATHS.moved(path)
        assert moved == Path(f"/data/out.{path.name}")
        assert PATHS.is_moved(moved.name)
        assert not PATHS.is_moved(f"{moved.name}.bak")
        assert not PATHS.is_moved(path.name)
        assert PATHS.moved_back(moved) == path


def test_each_name_tells_its_target() -> None:
    """Also those of a target whose own name is odd."""
    for paths in (PATHS, RunPaths(Path("/data/a.streamconv-b\nc"))):
        target = paths.target.name
        moved = [paths.moved(path) for path in (paths.journal(2), paths.request, paths.listing)]
        for path in (paths.partial, paths.replaced, paths.lock(12), *moved):
            assert target_of(path.name) == target
            assert target_of(f"{path.name}.bak") is None
        assert target_of(target) is None
    for name in (".streamconv-partial", "streamconv-partial", "out.streamconv-lock-x", "out"):
        assert target_of(name) is None


@pytest.mark.parametrize("root", ["/", "//"])
def test_the_root_has_nothing_next_to_it(root: str) -> None:
    with pytest.raises(UsageError, match=f"cannot write to {root}: ") as caught:
        RunPaths(Path(root))
    assert caught.value.hint

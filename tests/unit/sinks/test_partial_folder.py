"""The partial folder: its files, also those of somebody else, and their permissions."""

import os
from pathlib import Path

import pytest
from partial_folders import partial
from shard_plans import names, plan_of

from streamconv.errors import IOFailed, OutputExists
from streamconv.planning.plan import Plan
from streamconv.sinks.journal_files import Journals
from streamconv.sinks.partial_folder import PartialFolder
from streamconv.sinks.run_paths import RunPaths
from streamconv.system.file_ops import Files


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_of([8, 5], tmp_path / "source")


def opened(folder: Path, files: Files | None = None) -> PartialFolder:
    """That of a run which writes to `out` in this folder."""
    files = files or Files()
    paths = RunPaths(folder / "out")
    files.guard(paths.parent, paths.own_prefix)
    return PartialFolder(paths, Journals(paths, 1, files), files)


def test_a_umask_that_takes_from_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left that a later run could not look into."""
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may do everything
    umask = os.umask(0o777)
    try:
        with pytest.raises(IOFailed, match="permissions 000, and even its owner") as caught:
            opened(tmp_path).make()
    finally:
        os.umask(umask)
    assert "umask 022" in caught.value.hint
    assert names(tmp_path) == []


def test_permissions_while_another_part_is_at_work(tmp_path: Path, plan: Plan) -> None:
    """A file of it that is gone meanwhile does not keep those after it from being set."""

    class Busy(Files):
        def walk(self, folder: Path) -> list[Path]:
            return [folder / "another-part.new", *super().walk(folder)]

    folder = partial(tmp_path, plan, 0, 1)
    opened(tmp_path, Busy()).set_shard_modes(0o604)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes.pop("streamconv-journal-1.jsonl") != 0o604
    assert {*modes.values()} == {0o604}


def test_only_named_files_are_kept(tmp_path: Path, plan: Plan) -> None:
    """And journals; a file of somebody else is not touched."""
    path = partial(tmp_path, plan, 0)
    opened(tmp_path).keep_only(plan, [plan.shards[0].name])
    assert names(path) == [plan.shards[0].name, "streamconv-journal-1.jsonl"]
    (path / "notes.doc").touch()
    with pytest.raises(OutputExists, match="it holds files that no conversion has written"):
        opened(tmp_path).keep_only(plan, [])
    assert plan.shards[0].name in names(path)


def test_permissions(tmp_path: Path, plan: Plan) -> None:
    path = partial(tmp_path, plan)
    opened(tmp_path).set_modes(0o750, 0o640)
    modes = {each.stat().st_mode & 0o777 for each in path.iterdir()}
    assert (path.stat().st_mode & 0o777, modes) == (0o750, {0o640})


def test_a_small_file_in_a_folder_of_its_own(tmp_path: Path, plan: Plan) -> None:
    path = partial(tmp_path, plan)
    opened(tmp_path).write_file("release/.metadata", b"x")
    assert (path / "release" / ".metadata").read_bytes() == b"x"

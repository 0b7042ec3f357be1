"""What a run keeps next to its target: found, kept or removed in each state of a run."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from partial_folders import journal, partial, write_result
from shard_plans import names, plan_of

from streamconv.errors import OutputExists
from streamconv.planning.partition import Partition
from streamconv.planning.plan import Plan
from streamconv.sinks.journal import Finished
from streamconv.sinks.run_paths import RunPaths
from streamconv.sinks.workspace import RunWorkspace
from streamconv.system import mounts
from streamconv.system.file_ops import Files
from streamconv.system.planted import PlantedFile

SIZES = [8, 5]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_of(SIZES, tmp_path / "source")


def workspace(folder: Path, part: Partition | None = None) -> RunWorkspace:
    return RunWorkspace(RunPaths(folder / "out"), part or Partition(), Files(), overwrite=False)


def moved_journal(folder: Path) -> Path:
    return folder / "out.streamconv-journal-1.jsonl"


def test_a_committed_result(tmp_path: Path, plan: Plan) -> None:
    """Is known by the journals next to it, which name the conversion."""
    write_result(tmp_path / "out", plan)
    own = workspace(tmp_path)
    assert own.committed(plan) == {}
    moved_journal(tmp_path).write_bytes(journal(plan, 0, 1))
    assert {number: done.size for number, done in own.committed(plan).items()} == {0: 8, 1: 5}


def other_conversion(folder: Path, plan: Plan) -> None:
    moved_journal(folder).write_bytes(journal(plan_of([9, 5], folder / "source")))


def cut_shard(folder: Path, plan: Plan) -> None:
    (folder / "out" / plan.shards[1].name).write_bytes(b"cut")


def missing_shard(folder: Path, plan: Plan) -> None:
    (folder / "out" / plan.shards[1].name).unlink()


def unfinished(folder: Path, plan: Plan) -> None:
    (folder / "out.streamconv-partial").mkdir()


@pytest.mark.parametrize("change", [other_conversion, cut_shard, missing_shard, unfinished])
def test_a_target_that_is_not_this_result(
    tmp_path: Path, plan: Plan, change: Callable[[Path, Plan], None]
) -> None:
    write_result(tmp_path / "out", plan)
    moved_journal(tmp_path).write_bytes(journal(plan, 0, 1))
    change(tmp_path, plan)
    assert workspace(tmp_path).committed(plan) == {}


def test_leftovers_of_a_finished_run_are_removed(tmp_path: Path, plan: Plan) -> None:
    write_result(tmp_path / "out", plan)
    moved_journal(tmp_path).write_bytes(journal(plan, 0, 1))
    (tmp_path / "out.streamconv-lock-1").touch()
    workspace(tmp_path).clear_leftovers()
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize(
    "kept",
    ["out.streamconv-partial/", "out.streamconv-replaced/", "out.streamconv-journal-command.json"],
)
def test_leftovers_stay_while_something_is_left_to_do(
    tmp_path: Path, plan: Plan, kept: str
) -> None:
    write_result(tmp_path / "out", plan)
    moved_journal(tmp_path).write_bytes(journal(plan, 0, 1))
    if kept.endswith("/"):
        (tmp_path / kept).mkdir()
    else:
        (tmp_path / kept).touch()
    before = names(tmp_path)
    workspace(tmp_path).clear_leftovers()
    assert names(tmp_path) == before


@pytest.mark.parametrize("name", ["out.streamconv-lock-2", "out.streamconv-partial"])
def test_a_link_with_a_name_of_ours_is_refused(tmp_path: Path, name: str) -> None:
    """Before anything is written through it."""
    workspace(tmp_path).check_own()
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PlantedFile, match="a symbolic link"):
        workspace(tmp_path).check_own()


@pytest.mark.parametrize("name", ["out.streamconv-lock-old", "out.streamconv-journal-1.jsonl.bak"])
@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("elsewhere")])
def test_a_name_that_begins_like_ours_is_not_ours(
    tmp_path: Path, name: str, put: Callable[[Path], None]
) -> None:
    """It may be anything, and a run leaves it alone."""
    put(tmp_path / name)
    workspace(tmp_path).check_own()


@pytest.mark.parametrize("name", ["out.streamconv-replaced", "out.streamconv-partial"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_mount_point_with_a_name_of_ours_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    """No run could rename it; so no part begins in it."""
    (tmp_path / name).mkdir()
    run = workspace(tmp_path, Partition(number, number))
    run.check_own()
    monkeypatch.setattr(mounts, "mount_points", lambda: frozenset({tmp_path / name}))
    with pytest.raises(PlantedFile, match="a mount point"):
        run.check_own()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
@pytest.mark.parametrize(
    "name",
    [
        *("out", "out.streamconv-partial", "out.streamconv-replaced"),
        *("out.streamconv-journal-1.jsonl", "out.streamconv-journal-command.json"),
        "out.streamconv-journal-target.txt",
    ],
)
def test_what_is_another_user_s_below_a_folder_with_the_sticky_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Only its owner and that of the folder above can rename it: others may make a part."""
    if "journal" in name:
        (tmp_path / name).touch()
    else:
        (tmp_path / name).mkdir()
    os.chown(tmp_path / name, 4242, 4000)
    for mode, user, number, is_refused in (
        (0o1777, 4343, 1, True),
        (0o1777, 4343, 2, False),
        (0o777, 4343, 1, False),
        (0o1777, 4242, 1, False),
        (0o1777, 0, 1, False),
    ):
        tmp_path.chmod(mode)
        monkeypatch.setattr("os.geteuid", lambda user=user: user)
        run = workspace(tmp_path, Partition(number, number))
        if is_refused:
            with pytest.raises(OutputExists, match=r"belongs to user 4242, .*sticky bit"):
                check_all(run)
        else:
            check_all(run)


@pytest.mark.parametrize("name", ["out.streamconv-partial", "out"])
def test_a_folder_that_nobody_can_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Such as an empty one that is immutable, so that nothing is written where a disk belongs."""
    (tmp_path / name).mkdir()
    check_all(workspace(tmp_path))
    monkeypatch.setattr(
        "streamconv.sinks.usable_paths.has_protecting_flag", lambda path: path.name == name
    )
    with pytest.raises(OutputExists, match=f"{name}: it is immutable") as caught:
        check_all(workspace(tmp_path))
    assert caught.value.hint.startswith("run `chattr")


def check_all(run: RunWorkspace) -> None:
    run.check_own()
    run.check_former()


def test_a_folder_above_the_target_may_be_missing(tmp_path: Path) -> None:
    workspace(tmp_path / "missing").check_own()


def test_finished_shards_are_left_for_a_later_run(tmp_path: Path, plan: Plan) -> None:
    path = partial(tmp_path, plan, 0)
    own = workspace(tmp_path)
    own.leave(plan, {0: Finished(8, ())})
    assert path.is_dir()
    assert own.leftover_note.startswith(f"1 of 2 shards are finished in {path}; run the same")


@pytest.mark.parametrize(("keep", "finished"), [(True, ()), (False, (0,))])
def test_nothing_is_left_otherwise(
    tmp_path: Path, plan: Plan, keep: bool, finished: tuple[int, ...]
) -> None:
    """If nothing is finished, or nothing may be kept."""
    partial(tmp_path, plan)
    own = workspace(tmp_path)
    own.leave(plan, {number: Finished(8, ()) for number in finished}, keep=keep)
    assert names(tmp_path) == []
    assert own.leftover_note == ""


def test_a_part_leaves_the_folder_to_the_others(tmp_path: Path, plan: Plan) -> None:
    """The last one to end removes it, if none of them has finished a shard."""
    own = workspace(tmp_path, Partition(1, 2))
    own.partial_folder.make()
    path = own.partial
    (path / "streamconv-journal-1.jsonl").write_bytes(journal(plan))
    own.leave(plan, {})
    assert path.is_dir()
    other = workspace(tmp_path, Partition(2, 2))
    other.lock.take()
    own.remove_unused(plan)
    assert path.is_dir()
    other.lock.release()
    own.remove_unused(plan)
    assert not path.exists()


def test_a_run_of_one_part_decides_by_itself(tmp_path: Path, plan: Plan) -> None:
    own = workspace(tmp_path)
    own.partial_folder.make()
    (own.partial / "streamconv-journal-1.jsonl").write_bytes(journal(plan))
    own.remove_unused(plan)
    assert own.partial.is_dir()

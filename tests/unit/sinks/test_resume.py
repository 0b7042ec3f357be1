"""The partial folder of an earlier run: used again, replaced, or refused."""

from dataclasses import replace
from pathlib import Path

import pytest
from shard_plans import plan_of

from streamconv.errors import OutputExists
from streamconv.planning.plan import Plan
from streamconv.sinks.journal import Finished
from streamconv.sinks.journal_files import Journals
from streamconv.sinks.next_run import FINISH, PART, RUN, NextRun
from streamconv.sinks.resume import ResumeState, all_pieces, finished_on_disk
from streamconv.sinks.run_paths import RunPaths
from streamconv.system.file_ops import Files


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path / "out")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_of([10, 20], tmp_path / "source")


def state(
    paths: RunPaths, *, overwrite: bool = False, resume: bool = False, next_run: NextRun = RUN
) -> ResumeState:
    files = Files()
    journals = Journals(paths, 1, files)
    options = {"overwrite": overwrite, "resume": resume}
    return ResumeState(paths.partial, journals, files, **options, next_run=next_run)


def leave(paths: RunPaths, plan: Plan, *numbers: int) -> dict[int, Finished]:
    """Leave a partial folder in which these shards are finished."""
    paths.partial.mkdir()
    finished = {}
    for number in numbers:
        size = plan.shards[number].nbytes
        rows = tuple(f"{piece.nbytes} {number:032x}" for piece in plan.pieces([number]))
        finished[number] = Finished(size, rows)
        (paths.partial / plan.shards[number].name).write_bytes(bytes(size))
    Journals(paths, 1, Files()).start(plan, finished).close()
    return finished


@pytest.mark.parametrize("resume", [False, True])
def test_there_is_nothing_to_resume(paths: RunPaths, plan: Plan, resume: bool) -> None:
    """That is no error, also if it is asked for."""
    assert state(paths, resume=resume).finished(plan) == {}
    assert state(paths, resume=resume).reclaimed({}) == 0


def test_finished_shards_are_found(paths: RunPaths, plan: Plan) -> None:
    """With resume only; with overwrite alone nothing is used again."""
    finished = leave(paths, plan, 1)
    assert state(paths, resume=True).finished(plan) == finished
    assert state(paths, resume=True, overwrite=True).finished(plan) == finished
    assert state(paths, overwrite=True).finished(plan) == {}
    with pytest.raises(OutputExists, match="unfinished run") as caught:
        state(paths).finished(plan)
    assert "--resume" in caught.value.hint
    assert "--overwrite" in caught.value.hint


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_without_a_finished_shard_is_in_nobodys_way(
    paths: RunPaths, plan: Plan, resume: bool
) -> None:
    """A half-written shard is no use to anybody, and its bytes count as room."""
    leave(paths, plan)
    (paths.partial / plan.shards[0].name).write_bytes(b"half")
    earlier = state(paths, resume=resume)
    assert earlier.has_nothing_to_resume()
    assert earlier.finished(plan) == {}
    assert earlier.reclaimed({}) > 0


@pytest.mark.parametrize("resume", [False, True])
def test_folders_without_a_file_are_in_nobodys_way(
    paths: RunPaths, plan: Plan, resume: bool
) -> None:
    """A run that fails may remove its journal, and then fail to remove a folder of the result."""
    (paths.partial / "release").mkdir(parents=True)
    assert state(paths, resume=resume).finished(plan) == {}


@pytest.mark.parametrize("size", [None, 19, 21])
def test_a_shard_of_another_size_is_not_finished(
    paths: RunPaths, plan: Plan, size: int | None
) -> None:
    """Nor is one that is missing, whatever the journal says."""
    leave(paths, plan, 0, 1)
    shard = paths.partial / plan.shards[1].name
    if size is None:
        shard.unlink()
    else:
        shard.write_bytes(bytes(size))
    assert list(state(paths, resume=True).finished(plan)) == [0]


@pytest.mark.parametrize(
    ("next_run", "hint"),
    [
        (RUN, "start over with --overwrite"),
        (PART, "remove that folder"),
        (FINISH, "remove that folder"),
    ],
    ids=["run", "part", "finish"],
)
def test_what_cannot_be_resumed_is_refused(
    paths: RunPaths, plan: Plan, tmp_path: Path, next_run: NextRun, hint: str
) -> None:
    """A folder without a journal, and another conversion; the way out depends on the parts."""
    other = plan_of([10, 30], tmp_path / "source")
    leave(paths, other, 0)
    with pytest.raises(
        OutputExists, match="another conversion: shard size: 30 there, 20 here"
    ) as e:
        state(paths, resume=True, next_run=next_run).finished(plan)
    assert hint in e.value.hint
    paths.journal(1).unlink()
    with pytest.raises(OutputExists, match="no journal") as e:
        state(paths, resume=True, next_run=next_run).finished(plan)
    assert hint in e.value.hint


def test_an_empty_folder_can_be_resumed(paths: RunPaths, plan: Plan) -> None:
    """A run was stopped before its journal was there."""
    paths.partial.mkdir()
    assert state(paths, resume=True).finished(plan) == {}


def test_the_bytes_that_are_freed(paths: RunPaths, plan: Plan) -> None:
    """All that the folder takes on disk, but for the shards that are kept."""
    finished = leave(paths, plan, 0)
    (paths.partial / "half").write_bytes(bytes(100_000))
    everything = state(paths, resume=True).reclaimed({})
    assert everything >= 100_000
    assert state(paths, resume=True).reclaimed(finished) == everything - 10


def test_all_pieces_need_all_shards(paths: RunPaths, plan: Plan) -> None:
    """From the journals of all parts; the first missing shard is named."""
    finished = leave(paths, plan, 1)
    journals, files = Journals(paths, 1, Files()), Files()
    with pytest.raises(
        OutputExists, match=f"1 of 2 shards .* first is {plan.shards[0].name}"
    ) as caught:
        all_pieces(plan, journals, paths.partial, files)
    assert caught.value.hint == "run the same command with --resume to continue it"
    first = Finished(10, tuple(f"{piece.nbytes} {'0' * 32}" for piece in plan.pieces([0])))
    Journals(paths, 2, files).start(plan, {0: first}).close()
    (paths.partial / plan.shards[0].name).write_bytes(bytes(10))
    pieces = all_pieces(plan, journals, paths.partial, files)
    assert pieces == [first.pieces, finished[1].pieces]
    found = finished_on_disk(plan, journals.read(), paths.partial, files)
    assert found == {0: first, **finished}


def test_parts_that_read_different_weights(paths: RunPaths, plan: Plan) -> None:
    """Ranks that start at once do not see the journals of each other."""
    finished = leave(paths, replace(plan, sample="a1"), 0, 1)
    Journals(paths, 2, Files()).start(replace(plan, sample="b2"), {1: finished[1]}).close()
    journals = Journals(paths, 1, Files())
    with pytest.raises(OutputExists, match="parts have read different weights"):
        all_pieces(plan, journals, paths.partial, Files())
    Journals(paths, 2, Files()).start(plan, {1: finished[1]}).close()
    assert len(all_pieces(plan, journals, paths.partial, Files())) == 2


def test_a_journal_without_a_sample(paths: RunPaths, plan: Plan) -> None:
    """Of an earlier release, or of a source on a server: nothing is known of the weights."""
    finished = leave(paths, plan, 1)
    assert state(paths, resume=True).finished(replace(plan, sample="a1")) == finished

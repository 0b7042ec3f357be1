"""A run that died right after its commit: the next one only clears up."""

from pathlib import Path

import pytest
from generators import returned
from shard_plans import EmptySource, names, plan_of

from streamconv.planning.plan import Plan
from streamconv.sinks.checkpoint_folder import CheckpointFolder
from streamconv.sinks.committed_folder import CommittedFolder

SIZES = [6, 4]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "source").mkdir()
    return plan_of(SIZES, tmp_path / "source")


@pytest.fixture
def committed(plan: Plan, tmp_path: Path) -> CommittedFolder:
    """The output of a second run, after the first one renamed its result and was killed."""
    first = CheckpointFolder(tmp_path / "work" / "out")
    output = first.prepare(plan)
    for shard, size in enumerate(SIZES):
        for piece in plan.pieces([shard]):
            output.record_digest(piece, "0" * 32)
        output.write(shard, 0, memoryview(bytes(size)))
    returned(output.complete(EmptySource(plan.checkpoint)))
    output.release()
    first.partial.rename(first.target)
    again = CheckpointFolder(first.target, resume=True).prepare(plan)
    assert isinstance(again, CommittedFolder)
    return again


def test_every_shard_is_finished(committed: CommittedFolder, plan: Plan, tmp_path: Path) -> None:
    assert {number: done.size for number, done in committed.finished.items()} == {0: 6, 1: 4}
    assert returned(committed.complete(EmptySource(plan.checkpoint))) == tmp_path / "work" / "out"
    with pytest.raises(AssertionError):
        committed.write(0, 0, memoryview(b"x"))
    committed.abort()


def test_the_commit_clears_up(committed: CommittedFolder, tmp_path: Path) -> None:
    """The journals go, the result stays."""
    before = names(tmp_path / "work" / "out")
    committed.commit()
    assert names(tmp_path / "work") == ["out"]
    assert names(tmp_path / "work" / "out") == before


def test_an_abort_leaves_the_rest_to_the_next_run(
    committed: CommittedFolder, plan: Plan, tmp_path: Path
) -> None:
    """The journals that show that the result is complete are still there."""
    committed.abort(keep=False)
    left = names(tmp_path / "work")
    assert "out.streamconv-journal-1.jsonl" in left
    assert not [name for name in left if "lock" in name]
    again = CheckpointFolder(tmp_path / "work" / "out", resume=True).prepare(plan)
    again.commit()
    assert names(tmp_path / "work") == ["out"]

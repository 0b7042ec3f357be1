"""The checkpoint folder: what it refuses before anything is written, and what it prepares."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from shard_plans import names, plan_of

import streamconv
from streamconv.errors import IOFailed, NoSpace, OutputExists, UsageError
from streamconv.sinks.checkpoint_folder import CheckpointFolder
from streamconv.system.file_ops import Files


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("target", ["s3://bucket/model", "hf://org/name"])
def test_a_url_is_no_target(target: str) -> None:
    """Before anything is opened: it would become a folder called `s3:`."""
    with pytest.raises(UsageError, match=f"cannot write to {target}: targets are folders"):
        streamconv.merge("nothing", target)
    with pytest.raises(UsageError, match="targets are folders"):
        streamconv.finish(target)


@pytest.mark.parametrize("target", ["/", "//", "/tmp/.."])
def test_the_root_is_no_target(target: str, source: Path) -> None:
    """Not even for `finish`: nothing could stand next to it."""
    with pytest.raises(UsageError, match="next to the root of the file system"):
        CheckpointFolder(target).prepare(plan_of([4096], source))
    with pytest.raises(UsageError, match="next to the root of the file system"):
        streamconv.finish(target)


def test_a_target_next_to_the_target_of_a_link(tmp_path: Path) -> None:
    """`link/../out` is where every other program writes it, too."""
    (tmp_path / "disk" / "folder").mkdir(parents=True)
    (tmp_path / "link").symlink_to("disk/folder")
    target = tmp_path / "link" / ".." / "out"
    assert CheckpointFolder(target).target == tmp_path / "disk" / "out"


def _by_a_folder(target: Path) -> None:
    target.mkdir()
    (target / "old").write_bytes(b"x")


def _by_a_file(target: Path) -> None:
    target.write_bytes(b"x")


def _by_a_link(target: Path) -> None:
    (target.parent / "elsewhere").mkdir()
    target.symlink_to(target.parent / "elsewhere")


def _by_another_run(target: Path) -> None:
    target.with_name("out.streamconv-partial").mkdir()
    (target.with_name("out.streamconv-partial") / "model.safetensors").write_bytes(b"x")


@pytest.mark.parametrize("take", [_by_a_folder, _by_a_file, _by_a_link, _by_another_run])
def test_a_target_that_is_taken_is_refused(
    tmp_path: Path, source: Path, take: Callable[[Path], None]
) -> None:
    """Before anything is written, and what is there stays."""
    target = tmp_path / "out"
    take(target)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(OutputExists):
        CheckpointFolder(target).prepare(plan_of([4096], source))
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("target", [".", "source", "source/below"])
def test_source_and_target_may_not_overlap(tmp_path: Path, source: Path, target: str) -> None:
    """Not even with --overwrite."""
    with pytest.raises(OutputExists, match="overlap"):
        CheckpointFolder(tmp_path / target, overwrite=True).prepare(plan_of([4096], source))


def test_a_run_killed_before_its_first_shard_was_finished_is_in_nobodys_way(
    tmp_path: Path, source: Path
) -> None:
    """Its half-written shard is listed as removed, and a plain run starts over."""
    plan = plan_of([4096], source)
    killed = CheckpointFolder(tmp_path / "out")
    killed.prepare(plan)
    half = killed.partial / plan.shards[0].name
    half.write_bytes(b"half")
    (tmp_path / "out.streamconv-lock-1").unlink()
    folder = CheckpointFolder(tmp_path / "out")
    removed = {removal.path: removal.nbytes for removal in folder.removals(plan)}
    assert removed[str(half)] == 4
    folder.prepare(plan).abort()
    assert names(tmp_path) == ["source"]


def test_too_little_disk_is_seen_beforehand(tmp_path: Path, source: Path) -> None:
    """With needed and free bytes; no folder is left, not even that above the target."""
    with pytest.raises(NoSpace, match="needed"):
        CheckpointFolder(tmp_path / "a" / "out").prepare(plan_of([10**18], source))
    assert names(tmp_path) == ["source"]


def test_a_prepared_folder_that_is_aborted_leaves_nothing(tmp_path: Path, source: Path) -> None:
    """No shard is finished, so there is nothing to resume."""
    folder = CheckpointFolder(tmp_path / "out")
    output = folder.prepare(plan_of([4096], source))
    assert output.finished == {}
    assert names(folder.partial) == ["streamconv-journal-1.jsonl"]
    assert names(tmp_path) == ["out.streamconv-lock-1", "out.streamconv-partial", "source"]
    output.abort()
    assert folder.leftover_note == ""
    assert names(tmp_path) == ["source"]


@pytest.mark.parametrize("step", ["make_folder", "sync_folder", "open_append", "scan"])
def test_a_folder_that_cannot_be_prepared_leaves_nothing(
    tmp_path: Path, source: Path, step: str
) -> None:
    """Whichever step fails: no lock, no partial folder, no folder above the target."""
    failed: list[Path] = []
    files = Files()
    operation = getattr(files, step)

    def fail(path: Path, **options: bool) -> object:
        if "partial" in path.name + path.parent.name and not failed:
            failed.append(path)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return operation(path, **options)

    setattr(files, step, fail)
    with pytest.raises(IOFailed, match="Input/output error"):
        CheckpointFolder(tmp_path / "a" / "out", files=files).prepare(plan_of([4096], source))
    assert failed
    assert names(tmp_path) == ["source"]


def test_finished_shards_are_found_again(tmp_path: Path, source: Path) -> None:
    """An aborted run keeps them and says so; the next one starts with them."""
    plan = plan_of([10, 20], source)
    first = CheckpointFolder(tmp_path / "out")
    output = first.prepare(plan)
    for piece in plan.pieces([1]):
        output.record_digest(piece, "0" * 32)
    assert output.write(1, 0, memoryview(bytes(20)))
    output.write(0, 0, memoryview(bytes(3)))
    output.abort()
    assert "1 of 2 shards are finished" in first.leftover_note
    assert "--resume" in first.leftover_note
    with pytest.raises(OutputExists, match="unfinished run"):
        CheckpointFolder(tmp_path / "out").check(plan)
    again = CheckpointFolder(tmp_path / "out", resume=True)
    assert list(again.check(plan)) == [1]
    output = again.prepare(plan)
    assert list(output.finished) == [1]
    output.abort(keep=False)
    assert names(tmp_path) == ["source"]

"""The open output: shards side by side, the commit, a failing disk, and what abort leaves."""

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from generators import returned
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_plans import FILE_OPERATIONS, FORMATS, EmptySource, FailingWrites, names, plan_of
from shard_work import PAGE, Work, carry_out, works

from streamconv.errors import IOFailed, NoSpace, OutputExists, StreamconvError
from streamconv.planning.partition import Partition
from streamconv.sinks.checkpoint_folder import CheckpointFolder
from streamconv.system.file_ops import Files


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@settings(deadline=None, max_examples=25)
@given(first=works(), second=works(), written=st.sampled_from(list(FORMATS)))
@FILE_OPERATIONS
def test_several_shards_at_once(
    tmp_path_factory: pytest.TempPathFactory,
    kind: type[Files],
    first: Work,
    second: Work,
    written: str,
) -> None:
    """Two shards are filled at the same time; each is durable when its last write says so."""
    base = tmp_path_factory.mktemp("folder")
    (base / "source").mkdir()
    both = [first, second]
    plan = plan_of([len(work.content) for work in both], base / "source", written)
    folder = CheckpointFolder(base / "out", files=kind())
    output = folder.prepare(plan)
    complete: list[int] = []

    def write_to(shard: int) -> Callable[[int, memoryview], None]:
        def write(offset: int, data: memoryview) -> None:
            if output.write(shard, offset, data):
                complete.append(shard)

        return write

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda k: carry_out(both[k], write_to(k)), (0, 1)))
    assert sorted(complete) == sorted(output.finished) == [0, 1]
    for shard, work in zip(plan.shards, both, strict=True):
        assert (folder.partial / shard.name).read_bytes() == work.content
    assert not folder.target.exists()
    output.abort(keep=False)
    assert not folder.partial.exists()


@pytest.mark.parametrize("written", FORMATS)
@FILE_OPERATIONS
def test_a_commit_shows_the_result_whole(
    tmp_path: Path, source: Path, kind: type[Files], written: str
) -> None:
    """The target appears with all shards and files of the format; nothing is left next to it."""
    plan = plan_of([PAGE, PAGE], source, written)
    folder = CheckpointFolder(tmp_path / "out", files=kind())
    output = folder.prepare(plan)
    for number in (1, 0):
        assert not folder.target.exists()
        content = memoryview(bytes([number + 1]) * PAGE)
        for piece in plan.pieces([number]):
            output.record_digest(piece, "0" * 32)
        assert output.write(number, 0, content)
    assert returned(output.complete(EmptySource(plan.checkpoint))) == folder.partial
    assert not folder.target.exists()
    output.commit()
    found = {
        str(path.relative_to(folder.target)) for path in folder.target.rglob("*") if path.is_file()
    }
    assert found == {*(shard.name for shard in plan.shards), *FORMATS[written][2]}
    for number, shard in enumerate(plan.shards):
        assert (folder.target / shard.name).read_bytes() == bytes([number + 1]) * PAGE
    assert names(tmp_path) == ["out", "source"]


def test_a_result_without_all_shards_is_not_completed(tmp_path: Path, source: Path) -> None:
    """The first missing shard is named; those that are finished stay."""
    plan = plan_of([PAGE, PAGE], source)
    folder = CheckpointFolder(tmp_path / "out")
    output = folder.prepare(plan)
    for piece in plan.pieces([0]):
        output.record_digest(piece, "0" * 32)
    output.write(0, 0, memoryview(bytes(PAGE)))
    with pytest.raises(OutputExists, match=rf"1 of 2 .* {plan.shards[1].name}"):
        returned(output.complete(EmptySource(plan.checkpoint)))
    output.abort()
    assert (folder.partial / plan.shards[0].name).exists()


def test_a_part_that_is_done_is_released(tmp_path: Path, source: Path) -> None:
    """Its shards, its journal and the request stay for the part that commits; its lock goes."""
    plan = plan_of([10, 20], source)
    folder = CheckpointFolder(tmp_path / "out", part=Partition(1, 2), resume=True)
    output = folder.prepare(plan)
    output.save_request(b"{}")
    output.write(0, 0, memoryview(bytes(10)))
    output.release()
    assert "1 of 2 shards are finished" in folder.leftover_note
    assert names(tmp_path) == ["out.streamconv-partial", "source"]
    journals = ["streamconv-journal-1.jsonl", "streamconv-journal-command.json"]
    assert names(folder.partial) == [plan.shards[0].name, *journals]


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, NoSpace),
        (errno.EDQUOT, NoSpace),
        (errno.EFBIG, NoSpace),
        (errno.EIO, IOFailed),
    ],
)
def test_a_failing_disk_in_words(
    tmp_path: Path, source: Path, number: int, kind: type[StreamconvError]
) -> None:
    """Errors name the file and the fact, and tell a full disk from a broken one."""
    plan = plan_of([PAGE], source)
    output = CheckpointFolder(tmp_path / "out", files=FailingWrites(number)).prepare(plan)
    with pytest.raises(kind) as caught:
        output.write(0, 0, memoryview(bytes(PAGE)))
    assert plan.shards[0].name in caught.value.message
    assert os.strerror(number) in caught.value.message
    output.abort()
    assert names(tmp_path) == ["source"]


@settings(deadline=None, max_examples=20)
@given(work=works())
def test_a_worker_gets_the_error_of_a_failing_disk(
    tmp_path_factory: pytest.TempPathFactory, work: Work
) -> None:
    """Through its write buffer, as an error of the package."""
    base = tmp_path_factory.mktemp("failing")
    (base / "source").mkdir()
    folder = CheckpointFolder(base / "out", files=FailingWrites(errno.ENOSPC))
    output = folder.prepare(plan_of([len(work.content)], base / "source"))
    with pytest.raises(NoSpace):
        carry_out(work, lambda offset, data: output.write(0, offset, data))
    output.abort()


def test_abort_leaves_no_descriptor_open(tmp_path: Path, source: Path) -> None:
    """Nor that of a shard that is half written."""
    opened, closed = [], []

    class Counting(Files):
        def create(self, path: Path, size: int) -> int:
            opened.append(super().create(path, size))
            return opened[-1]

        def create_small(self, path: Path) -> int:
            opened.append(super().create_small(path))
            return opened[-1]

        def open_read(self, path: Path) -> int:
            opened.append(super().open_read(path))
            return opened[-1]

        def open_append(self, path: Path, *, create: bool = True) -> int:
            opened.append(super().open_append(path, create=create))
            return opened[-1]

        def close(self, fd: int) -> None:
            closed.append(fd)
            super().close(fd)

    folder = CheckpointFolder(tmp_path / "out", files=Counting())
    output = folder.prepare(plan_of([PAGE, 3 * PAGE, 7], source))
    output.write(0, 0, memoryview(bytes(PAGE)))
    output.write(1, 0, memoryview(bytes(PAGE)))
    output.write(2, 3, memoryview(bytes(2)))
    output.abort()
    assert len(opened) > 3
    assert sorted(opened) == sorted(closed)

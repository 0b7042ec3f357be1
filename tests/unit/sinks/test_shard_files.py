"""Shards: their bytes, whatever the order of writes; durable, then recorded in the journal."""

import errno
import json
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from shard_plans import FILE_OPERATIONS, plan_of
from shard_work import PAGE, Work, carry_out, works

from streamconv.planning.plan import Piece
from streamconv.planning.tables import SHARD_PIECE_BYTES
from streamconv.sinks.journal import Finished
from streamconv.sinks.journal_files import Journals, OpenJournal
from streamconv.sinks.run_paths import RunPaths
from streamconv.sinks.shard_files import OpenShard, Shards
from streamconv.system.file_ops import Files


def written(work: Work, files: Files, path: Path) -> bytes:
    """Write a shard; returns its bytes. Exactly one write finds it complete."""
    shard = OpenShard(files, files.create(path, len(work.content)), len(work.content))
    complete: list[bool] = []
    carry_out(work, lambda offset, data: complete.append(shard.write(offset, data)))
    assert complete.count(True) == 1
    shard.finish()
    return path.read_bytes()


@settings(deadline=None, max_examples=60)
@given(work=works())
@FILE_OPERATIONS
def test_a_shard_is_its_runs(
    tmp_path_factory: pytest.TempPathFactory, kind: type[Files], work: Work
) -> None:
    """Any runs, in any order, by any workers: exactly these bytes, at the true length."""
    path = tmp_path_factory.mktemp("shard") / "f"
    assert written(work, kind(), path) == work.content
    path.unlink()


def test_a_shard_is_complete_with_its_last_byte_alone(tmp_path: Path) -> None:
    """Only the write of the last missing bytes says so, wherever in the file they are."""
    size = 2 * PAGE + 10
    runs = [(0, 5), (5, PAGE + 3), (PAGE + 3, PAGE + 4), (PAGE + 4, size - 1), (size - 1, size)]
    for last in range(len(runs)):
        files = Files()
        path = tmp_path / str(last)
        shard = OpenShard(files, files.create(path, size), size)
        order = [run for run in runs if run != runs[last]] + [runs[last]]
        complete = []
        for begin, end in order:
            data = bytes(k % 256 for k in range(begin, end))
            complete.append(shard.write(begin, memoryview(data)))
        shard.finish()
        assert complete == [False] * 4 + [True]
        assert path.read_bytes() == bytes(k % 256 for k in range(size))


def shards_in(
    tmp_path: Path, sizes: list[int], files: Files
) -> tuple[Shards, OpenJournal, dict[int, Finished]]:
    """Open shards of these sizes in a partial folder."""
    paths = RunPaths(tmp_path / "out")
    paths.partial.mkdir()
    plan = plan_of(sizes, tmp_path / "source")
    journal = Journals(paths, 1, files).start(plan, {})
    finished: dict[int, Finished] = {}
    return Shards(plan, paths.partial, journal, finished, files), journal, finished


def test_a_shard_is_recorded_with_its_digests_in_order(tmp_path: Path) -> None:
    """In the order of offsets, whichever piece was written first; the last of a piece counts."""
    shards, journal, finished = shards_in(tmp_path, [10, 10], Files())
    first, second = "0123456789abcdef" * 2, "f" * 32
    shards.record_digest(Piece(1, 0, 6, ()), second)
    for offset, size, digest in ((6, 4, second), (0, 6, first)):
        shards.record_digest(Piece(1, offset, size, ()), digest)
        assert shards.write(1, offset, memoryview(bytes(size))) == (offset == 0)
    journal.close()
    assert finished == {1: Finished(10, ())}, "a run of terabytes has no room for its digests"
    recorded = RunPaths(tmp_path / "out").journal(1).read_bytes()
    line = json.loads(recorded.splitlines()[1])[1]
    name = "model-00001-of-00002.safetensors"
    assert line == {"shard": name, "size": 10, "pieces": [f"6 {first}", f"4 {second}"]}
    assert json.dumps(line, sort_keys=True).encode() in recorded


def test_the_digests_of_a_shard_of_terabytes_take_what_is_projected(tmp_path: Path) -> None:
    """Until it is finished, as far as Python counts its memory."""
    count = 20_000
    shards, journal, _ = shards_in(tmp_path, [count], Files())
    tracemalloc.start()
    try:
        for offset in range(count):
            shards.record_digest(Piece(0, offset, 1, ()), f"{offset:032x}")
        assert tracemalloc.get_traced_memory()[0] < 45 * count
        assert shards.write(0, 0, memoryview(bytes(count)))
        assert tracemalloc.get_traced_memory()[1] < SHARD_PIECE_BYTES * count
    finally:
        tracemalloc.stop()
    journal.close()


def test_a_shard_that_cannot_be_recorded_is_removed(tmp_path: Path) -> None:
    """The journal does not know it, so no later run would use it."""
    shards, journal, finished = shards_in(tmp_path, [10], Files())

    def fail(name: str, finished: Finished) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    journal.add = fail  # type: ignore[method-assign]
    with pytest.raises(OSError, match="Input/output error"):
        shards.write(0, 0, memoryview(bytes(10)))
    assert finished == {}
    assert not list((tmp_path / "out.streamconv-partial").glob("*.safetensors"))
    assert shards.close() == []
    journal.close()


def test_unfinished_shards_are_named_when_they_are_closed(tmp_path: Path) -> None:
    shards, journal, finished = shards_in(tmp_path, [10, 20, 30], Files())
    shards.write(0, 0, memoryview(bytes(10)))
    shards.write(2, 5, memoryview(bytes(10)))
    assert [path.name for path in shards.close()] == [shards.name(2)]
    assert list(finished) == [0]
    journal.close()

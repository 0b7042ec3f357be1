"""The journals of several parts: written whole, found in both places, moved there and back."""

import errno
import os
from pathlib import Path

import pytest
from shard_plans import names, plan_of

from streamconv.errors import IOFailed, OutputExists
from streamconv.planning.plan import Plan
from streamconv.sinks.journal import Finished
from streamconv.sinks.journal_files import Journals, load_request
from streamconv.sinks.run_paths import RunPaths
from streamconv.system.file_ops import Files

DONE = Finished(10, (f"10 {'0' * 32}",))


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    paths = RunPaths(tmp_path / "out")
    paths.partial.mkdir()
    return paths


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_of([10, 20], tmp_path / "source")


def finished(journals: Journals) -> list[dict[str, Finished]]:
    return [dict(journal.finished) for journal in journals.read()]


def test_lines_are_added_to_those_of_earlier_runs(paths: RunPaths, plan: Plan) -> None:
    """A new journal begins with the shards that are finished already."""
    journals = Journals(paths, 1, Files())
    journal = journals.start(plan, {0: DONE})
    journal.add("b", Finished(5, ()))
    journal.close()
    journal.close()
    assert finished(journals) == [{plan.shards[0].name: DONE, "b": Finished(5, ())}]
    journals.start(plan, {}).close()
    assert finished(journals) == [{}]
    assert names(paths.partial) == ["streamconv-journal-1.jsonl"]


class Unreadable(Files):
    """Opens a file that cannot be read."""

    def _read_some(self, fd: int, buffer: memoryview, offset: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_journal_that_cannot_be_read_is_an_error(paths: RunPaths, plan: Plan) -> None:
    """It is none that counts as not written. The file is closed again."""
    Journals(paths, 1, Files()).start(plan, {}).close()
    before = {*Path("/proc/self/fd").iterdir()}
    with pytest.raises(OSError, match="Input/output error"):
        Journals(paths, 1, Unreadable()).read()
    assert {*Path("/proc/self/fd").iterdir()} == before


def test_every_part_reads_the_journals_of_all(paths: RunPaths, plan: Plan) -> None:
    """In the partial folder and next to the target; one without a whole line counts as none."""
    for part in (1, 2, 3):
        journal = Journals(paths, part, Files()).start(plan, {})
        journal.add(f"shard {part}", DONE)
        journal.close()
    paths.journal(2).rename(paths.moved(paths.journal(2)))
    paths.journal(3).write_bytes(b'["torn')
    assert finished(Journals(paths, 1, Files())) == [{"shard 1": DONE}, {"shard 2": DONE}]


def test_they_are_moved_next_to_the_target_and_back(paths: RunPaths, plan: Plan) -> None:
    """Another target's journals are left alone."""
    other = paths.parent / "outer.streamconv-journal-1.jsonl"
    other.touch()
    journals = Journals(paths, 1, Files())
    journals.start(plan, {}).close()
    journals.save_request(b"{}")
    inside = ["streamconv-journal-1.jsonl", "streamconv-journal-command.json"]
    assert names(paths.partial) == inside
    journals.move()
    assert names(paths.partial) == []
    assert [path.name for path in journals.moved()] == [f"out.{name}" for name in inside]
    journals.move_back()
    assert names(paths.partial) == inside
    journals.move()
    journals.remove_moved()
    assert names(paths.parent) == ["out.streamconv-partial", other.name]


def test_a_folder_with_the_name_of_a_journal_is_not_moved(paths: RunPaths, plan: Plan) -> None:
    """Nor a pipe: no run has written it, so it is no journal."""
    journals = Journals(paths, 1, Files())
    journals.start(plan, {}).close()
    paths.journal(9).mkdir()
    os.mkfifo(paths.journal(8))
    journals.move()
    assert names(paths.partial) == [paths.journal(8).name, paths.journal(9).name]
    assert names(paths.parent) == ["out.streamconv-journal-1.jsonl", "out.streamconv-partial"]


def test_a_new_journal_replaces_those_next_to_the_target(paths: RunPaths, plan: Plan) -> None:
    """They are outdated; but only once the new one is there."""
    journals = Journals(paths, 1, Files())
    journals.start(plan, {0: DONE}).close()
    journals.move()
    journals.start(plan, {}).close()
    assert finished(journals) == [{}]
    assert journals.moved() == []


def test_after_a_failed_sync_nothing_is_added(paths: RunPaths, plan: Plan) -> None:
    """Every later call raises the same error, which names the journal."""
    calls: list[int] = []

    class Failing(Files):
        def sync(self, fd: int) -> None:
            calls.append(fd)
            if len(calls) == 2:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    journal = Journals(paths, 1, Failing()).start(plan, {})
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output") as caught:
            journal.add("a", DONE)
        assert caught.value.filename == str(paths.journal(1))
    assert len(calls) == 2
    journal.close()


def test_the_request_of_an_unfinished_conversion(paths: RunPaths) -> None:
    """It can be loaded until the commit; then the target exists, or nothing does."""
    with pytest.raises(IOFailed, match="there is no unfinished conversion"):
        load_request(paths.target)
    Journals(paths, 1, Files()).save_request(b"first")
    Journals(paths, 2, Files()).save_request(b"second")
    assert load_request(paths.target) == (b"second", str(paths.request))
    paths.partial.joinpath(paths.request.name).unlink()
    paths.target.mkdir()
    with pytest.raises(OutputExists, match="exists already"):
        load_request(paths.target)


def test_a_folder_that_another_part_removes_has_no_journals(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "out")
    assert Journals(paths, 1, Files()).read() == []

"""Staging, and shards put together from runs: the bytes that come out, whatever the order.

A run is a contiguous part of a shard, as a worker makes it; several workers write to one shard at
once.
"""

import errno
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.families import HUB_NAMES
from streamconv.catalog.presets import Prefixes, find_preset
from streamconv.checkpoint.layout_record import Record
from streamconv.checkpoint.types import Checkpoint, OtherFile
from streamconv.detection.detect import Detected
from streamconv.errors import IOFailed, NoSpace, OutputExists, StreamconvError
from streamconv.planning.dcp_shards import Dcp
from streamconv.planning.memory import Memory
from streamconv.planning.plan import Plan
from streamconv.planning.shards import Safetensors, Shard, ShardFormat
from streamconv.planning.target import Target
from streamconv.sinks.checkpoint_folder import CheckpointFolder
from streamconv.sinks.preflight import PARTIAL_SUFFIX
from streamconv.sinks.shard_files import OpenShard
from streamconv.sinks.write_buffer import WriteBuffer
from streamconv.sources.base import Read
from streamconv.system.file_ops import Files
from streamconv.system.linux_file_ops import LinuxFiles

KINDS = pytest.mark.parametrize(
    "kind",
    [
        Files,
        pytest.param(
            LinuxFiles,
            marks=pytest.mark.skipif(sys.platform != "linux", reason="calls that only Linux has"),
        ),
    ],
)
PAGE = 4096
Run = tuple[int, int]
"""Where a run begins and ends in its file."""


@dataclass(frozen=True)
class Work:
    """How a file is written: its runs as they are taken, by how many workers, through what."""

    content: bytes
    runs: list[Run]
    workers: int
    staging: int
    chunk: int
    """Bytes that a worker asks room for at a time, or exactly so many where staging is larger."""


@st.composite
def works(draw: st.DrawFn) -> Work:
    size = 2 * draw(st.integers(0, 9 * PAGE // 2)) + 1
    near_pages = st.integers(0, size // PAGE).flatmap(
        lambda page: st.integers(max(page * PAGE - 2, 0), page * PAGE + 2)
    )
    cuts = draw(st.sets(st.integers(1, size) | near_pages, max_size=14))
    bounds = sorted({0, size} | {cut for cut in cuts if cut < size})
    return Work(
        content=draw(st.randoms(use_true_random=False)).randbytes(size),
        runs=draw(st.permutations(list(pairwise(bounds)))),
        workers=draw(st.integers(1, 3)),
        staging=PAGE * draw(st.sampled_from([1, 2, 3, 16])),
        chunk=draw(st.sampled_from([1000, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 100_000])),
    )


def fill(staging: WriteBuffer, work: Work, run: Run) -> None:
    """The bytes of a run, asked for in turn as much as there is room, and all of a chunk."""
    data = work.content[run[0] : run[1]]
    exactly = False
    while data:
        wanted = min(work.chunk, len(data))
        exactly = not exactly and wanted <= work.staging
        room = (staging.exactly if exactly else staging.next)(wanted)
        assert 0 < len(room) <= wanted
        assert not exactly or len(room) == wanted
        room[:] = data[: len(room)]
        data = data[len(room) :]


def carry_out(work: Work, write: Callable[[int, memoryview], object]) -> None:
    """Several workers take the runs in their order; what fails in one of them is raised."""
    runs = iter(work.runs)
    taking = threading.Lock()

    def worker(_: int) -> None:
        staging = WriteBuffer(work.staging)
        while True:
            with taking:
                run = next(runs, None)
            if run is None:
                break
            staging.begin(run[0], write)
            fill(staging, work, run)
            staging.flush()

    with ThreadPoolExecutor(work.workers) as workers:
        list(workers.map(worker, range(work.workers)))


# --- staging -----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(work=works())
def test_staging_hands_on_every_byte_once(work: Work) -> None:
    """Each byte of each run reaches the file at its offset, in writes as long as the buffer."""
    result = bytearray(len(work.content))
    times = bytearray(len(work.content))

    def write(offset: int, data: memoryview) -> None:
        assert 0 < len(data) <= work.staging
        result[offset : offset + len(data)] = data
        for k in range(offset, offset + len(data)):
            times[k] += 1

    carry_out(work, write)
    assert bytes(result) == work.content
    assert set(times) == {1}


def test_writes_are_long_ones() -> None:
    """Of a run that comes in little pieces, what fits into the buffer goes at once."""
    written = []
    staging = WriteBuffer(100)
    staging.begin(7, lambda offset, data: written.append((offset, len(data))))
    for _ in range(21):
        staging.next(10)
    staging.exactly(95)
    staging.flush()
    assert written == [(7, 100), (107, 100), (207, 10), (217, 95)]


def test_each_run_goes_to_its_own_file() -> None:
    """The end of a run is written before the next one begins."""
    files: dict[str, bytes] = {}

    def writes_to(name: str) -> Callable[[int, memoryview], None]:
        def write(offset: int, data: memoryview) -> None:
            files[name] = files.get(name, b"") + bytes(data)

        return write

    staging = WriteBuffer(PAGE)
    for name in "abc":
        content = name.encode() * 5000
        staging.begin(3, writes_to(name))
        fill(staging, Work(content, [], 1, PAGE, 4000), (0, 5000))
        staging.flush()
    assert files == {name: name.encode() * 5000 for name in "abc"}


@settings(deadline=None, max_examples=40)
@given(work=works(), fails_at=st.integers(0, 20))
def test_errors_of_writing_surface(work: Work, fails_at: int) -> None:
    """What fails is raised by the call that wrote, and nothing else is made of it."""
    calls = []
    counting = threading.Lock()

    def write(offset: int, data: memoryview) -> None:
        with counting:
            calls.append(offset)
            failing = len(calls) == fails_at + 1
        if failing:
            raise OSError(errno.EIO, "broken")

    try:
        carry_out(work, write)
    except OSError as error:
        assert error.errno == errno.EIO
        assert len(calls) > fails_at
    else:
        assert len(calls) <= fails_at


# --- shards ------------------------------------------------------------------------------------


def written(work: Work, files: Files, path: Path) -> bytes:
    """What a shard is when the work is done; exactly one write finds it complete."""
    shard = OpenShard(files, files.create(path, len(work.content)), len(work.content))
    complete: list[bool] = []
    carry_out(work, lambda offset, data: complete.append(shard.write(offset, data)))
    assert complete.count(True) == 1
    shard.finish()
    return path.read_bytes()


@settings(deadline=None, max_examples=60)
@given(work=works())
@KINDS
def test_a_shard_is_its_runs(
    tmp_path_factory: pytest.TempPathFactory, kind: type[Files], work: Work
) -> None:
    """Any runs, in any order, by any workers: exactly these bytes, at the true length."""
    path = tmp_path_factory.mktemp("shard") / "f"
    assert written(work, kind(), path) == work.content
    path.unlink()


def test_a_shard_is_complete_with_its_last_byte_alone(tmp_path: Path) -> None:
    """Only the write that was missing says so, whichever part of the file it is."""
    size = 2 * PAGE + 10
    runs = [(0, 5), (5, PAGE + 3), (PAGE + 3, PAGE + 4), (PAGE + 4, size - 1), (size - 1, size)]
    for last in range(len(runs)):
        files = Files()
        path = tmp_path / str(last)
        shard = OpenShard(files, files.create(path, size), size)
        order = [run for run in runs if run != runs[last]] + [runs[last]]
        said = []
        for begin, end in order:
            data = bytes(k % 256 for k in range(begin, end))
            said.append(shard.write(begin, memoryview(data)))
        shard.finish()
        assert said == [False] * 4 + [True]
        assert path.read_bytes() == bytes(k % 256 for k in range(size))


# --- the folder --------------------------------------------------------------------------------


RECORD = Record("hub", None, {})
FORMATS: dict[str, tuple[ShardFormat, str, set[str]]] = {
    "safetensors": (
        Safetensors(RECORD),
        "model-{:05d}-of-00002.safetensors",
        {"model.safetensors.index.json", "streamconv.json"},
    ),
    "dcp": (Dcp(Prefixes(), None, {}), "__0_{}.distcp", {".metadata"}),
    "mindspeed": (
        Dcp(Prefixes(), find_preset("mindspeed"), {}),
        "release/__0_{}.distcp",
        {"release/.metadata", "latest_checkpointed_iteration.txt"},
    ),
}
"""Each way to write a checkpoint, what it calls its shards, and what it adds to them."""


def plan_of(sizes: list[int], location: Path, written: str = "safetensors") -> Plan:
    """A plan of shards of these sizes, and nothing else."""
    format_, pattern, _ = FORMATS[written]
    shards = [Shard(pattern.format(k), (), size, size) for k, size in enumerate(sizes)]
    return Plan(
        checkpoint=Checkpoint(str(location), {}, (), (), {}, None, 0),
        source=Detected(default_catalog(), None, "", HUB_NAMES, None, (), {}),
        target=Target("hub", "", HUB_NAMES, {}, None, {}),
        format=format_,
        shards=tuple(shards),
        record=RECORD,
        max_shard_bytes=max(sizes),
        memory=Memory(0, 1, 0, PAGE, 0, None),
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@settings(deadline=None, max_examples=25)
@given(first=works(), second=works(), written=st.sampled_from(list(FORMATS)))
@KINDS
def test_several_shards_at_once(
    tmp_path_factory: pytest.TempPathFactory,
    kind: type[Files],
    first: Work,
    second: Work,
    written: str,
) -> None:
    """Two shards are filled side by side; each is durable when its last write says so."""
    base = tmp_path_factory.mktemp("folder")
    (base / "source").mkdir()
    works_ = [first, second]
    plan = plan_of([len(work.content) for work in works_], base / "source", written)
    sink = CheckpointFolder(base / "out", files=kind())
    sink.prepare(plan)
    complete: list[int] = []

    def write_to(shard: int) -> Callable[[int, memoryview], None]:
        def write(offset: int, data: memoryview) -> None:
            if sink.write(shard, offset, data):
                complete.append(shard)

        return write

    with ThreadPoolExecutor(2) as both:
        list(both.map(lambda k: carry_out(works_[k], write_to(k)), (0, 1)))
    assert sorted(complete) == [0, 1]
    for shard, work in zip(plan.shards, works_, strict=True):
        assert (sink.partial / shard.name).read_bytes() == work.content
    assert not sink.target.exists()
    sink.abort(keep=False)
    assert not sink.partial.exists()


class Unread:
    """A source of which nothing is read any more."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    def read(self, reads: Sequence[Read]) -> None:
        raise AssertionError

    def read_other(self, other: OtherFile, buffer: memoryview, start: int) -> int:
        raise AssertionError

    def check_unchanged(self) -> None:
        """Nothing has changed."""

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("written", FORMATS)
@KINDS
def test_a_commit_shows_the_result_whole(
    tmp_path: Path, source: Path, kind: type[Files], written: str
) -> None:
    """Its shards and what the format adds, where nothing was before; and nothing is left of it."""
    plan = plan_of([PAGE, PAGE], source, written)
    sink = CheckpointFolder(tmp_path / "out", files=kind())
    sink.prepare(plan)
    for number in (1, 0):
        assert not sink.target.exists()
        content = memoryview(bytes([number + 1]) * PAGE)
        for piece in plan.pieces([number]):
            sink.record_digest(piece, "0" * 32)
        assert sink.write(number, 0, content)
    assert sink.complete(Unread(plan.checkpoint)) == sink.partial
    assert not sink.target.exists()
    sink.commit()
    found = {
        str(path.relative_to(sink.target)) for path in sink.target.rglob("*") if path.is_file()
    }
    assert found == {*(shard.name for shard in plan.shards), *FORMATS[written][2]}
    for number, shard in enumerate(plan.shards):
        assert (sink.target / shard.name).read_bytes() == bytes([number + 1]) * PAGE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


class Failing(Files):
    """A disk on which writing fails."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, fd: int, data: memoryview, offset: int) -> None:
        raise OSError(self.number, os.strerror(self.number))


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
    sink = CheckpointFolder(tmp_path / "out", files=Failing(number))
    plan = plan_of([PAGE], source)
    sink.prepare(plan)
    with pytest.raises(kind) as caught:
        sink.write(0, 0, memoryview(bytes(PAGE)))
    assert plan.shards[0].name in caught.value.message
    assert os.strerror(number) in caught.value.message
    sink.abort()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@settings(deadline=None, max_examples=20)
@given(work=works())
def test_a_failing_disk_is_heard_of_by_the_worker(
    tmp_path_factory: pytest.TempPathFactory, work: Work
) -> None:
    """Through staging, as it was put into words."""
    base = tmp_path_factory.mktemp("failing")
    (base / "source").mkdir()
    sink = CheckpointFolder(base / "out", files=Failing(errno.ENOSPC))
    sink.prepare(plan_of([len(work.content)], base / "source"))
    with pytest.raises(NoSpace):
        carry_out(work, lambda offset, data: sink.write(0, offset, data))
    sink.abort()


def test_abort_leaves_no_descriptor_open(tmp_path: Path, source: Path) -> None:
    """Of shards that are half done."""
    opened, closed = [], []

    class Counting(Files):
        def create(self, path: Path, size: int) -> int:
            opened.append(super().create(path, size))
            return opened[-1]

        def create_small(self, path: Path) -> int:
            opened.append(super().create_small(path))
            return opened[-1]

        def open_append(self, path: Path, *, create: bool = True) -> int:
            opened.append(super().open_append(path, create=create))
            return opened[-1]

        def close(self, fd: int) -> None:
            closed.append(fd)
            super().close(fd)

    sink = CheckpointFolder(tmp_path / "out", files=Counting())
    sink.prepare(plan_of([PAGE, 3 * PAGE, 7], source))
    sink.write(0, 0, memoryview(bytes(PAGE)))
    sink.write(1, 0, memoryview(bytes(PAGE)))
    sink.write(2, 3, memoryview(bytes(2)))
    sink.abort()
    assert len(opened) > 3
    assert sorted(opened) == sorted(closed)


def _by_a_folder(place: Path) -> None:
    place.mkdir()
    (place / "old").write_bytes(b"x")


def _by_a_file(place: Path) -> None:
    place.write_bytes(b"x")


def _by_a_link(place: Path) -> None:
    (place.parent / "elsewhere").mkdir()
    place.symlink_to(place.parent / "elsewhere")


def _by_another_run(place: Path) -> None:
    place.with_name(place.name + PARTIAL_SUFFIX).mkdir()


@pytest.mark.parametrize("take", [_by_a_folder, _by_a_file, _by_a_link, _by_another_run])
def test_a_place_that_is_taken_is_refused(
    tmp_path: Path, source: Path, take: Callable[[Path], None]
) -> None:
    """Before anything is written, and what is there stays."""
    place = tmp_path / "out"
    take(place)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(OutputExists):
        CheckpointFolder(place).prepare(plan_of([PAGE], source))
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("place", [".", "source", "source/below"])
def test_source_and_target_do_not_lie_in_one_another(
    tmp_path: Path, source: Path, place: str
) -> None:
    """Not even with leave to overwrite."""
    with pytest.raises(OutputExists, match="in one another"):
        CheckpointFolder(tmp_path / place, overwrite=True).prepare(plan_of([PAGE], source))


def test_too_little_disk_is_seen_beforehand(tmp_path: Path, source: Path) -> None:
    """With what is needed and what is free; no folder is made."""
    with pytest.raises(NoSpace, match="needed"):
        CheckpointFolder(tmp_path / "out").prepare(plan_of([10**18], source))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]

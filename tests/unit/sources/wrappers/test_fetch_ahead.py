"""What is read next is asked for in time, in order, and by no worker."""

import errno
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from decoded import DTYPES, raw
from expert_memory import hub_tensors, plan_of, source_of
from folders import qwen_tensors, write_checkpoint
from memory_output import MemorySink
from memory_source import Contents, MemorySource
from quantized import CASES

import streamconv
from streamconv.checkpoint.casting import Casting
from streamconv.checkpoint.user_renames import parse_rename
from streamconv.execution.executor import execute
from streamconv.planning.shards import StepBytes
from streamconv.quantization.cast_checkpoint import cast_checkpoint
from streamconv.sources.base import ByteRange, Read, read_whole
from streamconv.sources.safetensors_folder import open_folder
from streamconv.sources.wrappers.cast import CastSource
from streamconv.sources.wrappers.fetch_ahead import FetchAhead
from streamconv.sources.wrappers.rate_limit import Throttle, ThrottledSource
from streamconv.sources.wrappers.rename import with_renames
from streamconv.system.cancellation import CancelToken
from streamconv.system.linux_file_ops import LinuxFiles

Asked = tuple[str, int, int]


class Expecting(MemorySource):
    """A source that notes what it is told to expect."""

    def __init__(self, tensors: Contents) -> None:
        super().__init__(tensors, config={"model_type": "qwen3_moe"})
        self.expected: list[Asked] = []

    def expect(self, ranges: Sequence[ByteRange]) -> None:
        self.expected += [(r.info.name, r.begin, r.end) for r in ranges]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ByteRange]]:
    """What is asked for ahead: the location of each source, and the bytes."""
    noted: list[tuple[str, ByteRange]] = []

    def expect(self: FetchAhead, ranges: Sequence[ByteRange]) -> None:
        noted.extend((self.checkpoint.location, each) for each in ranges)

    monkeypatch.setattr(FetchAhead, "expect", expect)
    return noted


def test_a_run_asks_for_every_piece_but_the_first_in_its_order(
    asked: list[tuple[str, ByteRange]],
) -> None:
    source = source_of(hub_tensors())
    plan = plan_of(source, jobs=1)
    assert list(execute(plan, source, MemorySink()))
    _, *others = plan.pieces()
    wanted = []
    for piece in others:
        for part in piece.parts:
            if isinstance(part, StepBytes):
                for number, offset in part.how.reads(part.unit):
                    end = offset + part.how.input_bytes
                    wanted.append((part.inputs[number].name, offset, end))
    assert [(each.info.name, each.begin, each.end) for _, each in asked] == wanted
    assert len(wanted) == 16


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_the_thread_passes_on_in_order_and_ends() -> None:
    source = Expecting({"w": ("U8", (8,), bytes(8))})
    info = source.checkpoint.tensors["w"]
    with FetchAhead(source) as fetched:
        for begin in range(8):
            fetched.expect([ByteRange(info, begin, begin + 1)])
        wait_for(lambda: len(source.expected) == 8)
    assert source.expected == [("w", begin, begin + 1) for begin in range(8)]
    assert not [t for t in threading.enumerate() if t.name == "fetch-ahead"]


def test_a_source_that_cannot_fetch_ahead_is_read_all_the_same() -> None:
    """An error ends neither the run nor the thread: what is asked for next is passed on."""

    class Failing(Expecting):
        def expect(self, ranges: Sequence[ByteRange]) -> None:
            super().expect(ranges)
            raise OSError(errno.EIO, "broken")

    source = Failing({"w": ("U8", (2,), b"ab")})
    info = source.checkpoint.tensors["w"]
    memory = memoryview(bytearray(2))
    with FetchAhead(source) as fetched:
        for begin in range(2):
            fetched.expect([ByteRange(info, begin, begin + 1)])
        fetched.read([Read(info, 0, memory)])
        wait_for(lambda: len(source.expected) == 2)
    assert (bytes(memory), source.expected) == (b"ab", [("w", 0, 1), ("w", 1, 2)])


@pytest.mark.parametrize("case", CASES)
def test_codes_and_what_belongs_to_them_are_expected(case: str) -> None:
    """All that is read of a matrix, at least."""
    made = CASES[case]()
    contents = {
        f"a{name}": (DTYPES[tensor.dtype], tuple(tensor.shape), raw(tensor))
        for name, tensor in made.tensors.items()
    }
    source = Expecting(contents)
    checkpoint = cast_checkpoint(
        MemorySource(contents, config=made.config).checkpoint,
        Casting(dequantize="BF16"),
        read=read_whole(source),
    )
    (info,) = checkpoint.tensors.values()
    casting = CastSource(source)
    casting.expect([ByteRange(info, 0, info.nbytes)])
    assert info.cast is not None
    stored = {each.name: each.nbytes for each in (info.cast.stored, *info.cast.companions)}
    assert {(name, 0, nbytes) for name, nbytes in stored.items()} == set(source.expected)


def test_a_rate_limit_lets_nothing_be_fetched_ahead() -> None:
    source = Expecting({"w": ("U8", (4,), b"abcd")})
    throttled = ThrottledSource(source, Throttle(1, CancelToken()))
    throttled.expect([ByteRange(source.checkpoint.tensors["w"], 0, 4)])
    assert source.expected == []


def test_renamed_tensors_are_expected_by_their_stored_names() -> None:
    source = Expecting({"model.w": ("U8", (4,), b"abcd")})
    renamed = with_renames(source, [parse_rename("model.=m.")])
    CastSource(renamed).expect([ByteRange(renamed.checkpoint.tensors["m.w"], 1, 3)])
    assert source.expected == [("model.w", 1, 3)]


def test_adjacent_tensors_of_a_file_are_one_piece_of_advice(tmp_path: Path) -> None:
    """And a file that is not open yet is not opened for it: whatever is wrong shows on reading."""

    class Advised(LinuxFiles):
        def __init__(self) -> None:
            super().__init__()
            self.asked: list[tuple[int, int]] = []

        def read_ahead(self, fd: int, offset: int, nbytes: int) -> None:
            self.asked.append((offset, nbytes))
            super().read_ahead(fd, offset, nbytes)

    folder = write_checkpoint(tmp_path / "src", {"model.safetensors": qwen_tensors()}, index=False)
    files = Advised()
    source = open_folder(str(folder), files=files)
    infos = sorted(source.checkpoint.tensors.values(), key=lambda info: info.offset)
    ranges = [ByteRange(info, 0, info.nbytes) for info in infos]
    source.expect(ranges)
    assert files.asked == []
    source.read([Read(infos[0], 0, memoryview(bytearray(1)))])
    source.expect([*ranges[3:5], ranges[7], *ranges[:2]])
    one, two, three = infos[0], infos[3], infos[7]
    assert files.asked == [
        (one.offset, one.nbytes + infos[1].nbytes),
        (two.offset, two.nbytes + infos[4].nbytes),
        (three.offset, three.nbytes),
    ]
    source.close()
    source.expect(ranges)
    assert len(files.asked) == 3


def test_verification_asks_both_sides(tmp_path: Path, asked: list[tuple[str, ByteRange]]) -> None:
    """For every byte of both but those of the first comparison, once."""
    folder = write_checkpoint(tmp_path / "src", {"model.safetensors": qwen_tensors()}, index=False)
    made = tmp_path / "dst"
    streamconv.convert(folder, made, to="fused-transposed")
    asked.clear()
    assert streamconv.verify(folder, made, jobs=1).ok
    for side in (folder, made):
        ranges = [each for location, each in asked if location == str(side)]
        nbytes = sum(each.end - each.begin for each in ranges)
        with closing(open_folder(str(side))) as source:
            stored = source.checkpoint.tensors
            assert len(set(ranges)) == len(ranges)
            first = max(info.nbytes for info in stored.values())
            whole = sum(info.nbytes for info in stored.values())
        assert whole - first <= nbytes < whole

"""The contract of a source, held by every kind alike, and what each of them adds."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from folders import Tensors, qwen_tensors, two_shards, write_checkpoint
from hub_server import Hub, taken_for_the_hub

import streamconv
from streamconv.checkpoint import OtherFile
from streamconv.sources import Read, Source
from streamconv.sources.opening import open_source
from streamconv.sources.throttle import Throttle, ThrottledSource
from streamconv.stop import Stop

Open = Callable[[Path], Source]
"""Opens the checkpoint of a folder as one kind of source."""


@pytest.fixture(params=["folder", "hub", "url"])
def opened(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Open]:
    if request.param == "hub":
        with taken_for_the_hub(Hub({}), tmp_path, monkeypatch) as hub:

            def open_on_hub(folder: Path) -> Source:
                hub.repos["org/name"] = folder
                return open_source("hf://org/name")

            yield open_on_hub
    elif request.param == "url":
        yield lambda folder: open_source(folder.as_uri())
    else:
        yield lambda folder: open_source(str(folder))


@pytest.fixture
def tensors() -> Tensors:
    return qwen_tensors()


@pytest.fixture
def source(tmp_path: Path, tensors: Tensors, opened: Open) -> Source:
    folder = write_checkpoint(tmp_path / "source", two_shards(tensors), {"model_type": "qwen3_moe"})
    (folder / "vocab").mkdir()
    (folder / "vocab" / "merges.txt").write_text("a b\n" * 1000)
    return opened(folder)


def test_the_headers_are_read(source: Source, tensors: Tensors) -> None:
    """Every tensor with dtype, shape and size; every file; the config."""
    checkpoint = source.checkpoint
    assert {
        name: (info.dtype, info.shape, info.nbytes) for name, info in checkpoint.tensors.items()
    } == {name: (dtype, shape, len(data)) for name, (dtype, shape, data) in tensors.items()}
    assert [file.name for file in checkpoint.files] == sorted(two_shards(tensors))
    assert "vocab/merges.txt" in {other.name for other in checkpoint.others}
    assert checkpoint.config == {"model_type": "qwen3_moe"}


def test_a_batch_fills_every_buffer(source: Source, tensors: Tensors) -> None:
    """Whole tensors and parts of them, neighbours and strangers, twice the same, in any order."""
    reads, wanted = [], []
    for name in reversed(list(tensors)):
        data = tensors[name][2]
        for begin, end in ((0, len(data)), (len(data) // 2, len(data)), (3, 4), (0, 0)):
            buffer = memoryview(bytearray(b"\xee" * (end - begin + 2)))
            reads.append(Read(source.checkpoint.tensors[name], begin, buffer[1:-1]))
            wanted.append((buffer, b"\xee" + data[begin:end] + b"\xee"))
    source.read(reads)
    source.read([])
    assert all(bytes(buffer) == data for buffer, data in wanted)


def test_another_file_is_read(source: Source) -> None:
    """From any offset, to its end and no further."""
    other = OtherFile("vocab/merges.txt", 4000)
    room = memoryview(bytearray(3000))
    assert source.read_other(other, room, 0) == 3000
    assert bytes(room) == b"a b\n" * 750
    assert source.read_other(other, room, 3002) == 998
    assert bytes(room[:998]) == b"b\n" + b"a b\n" * 249
    assert source.read_other(other, room, 4000) == 0


def test_closing_twice(source: Source) -> None:
    """Does nothing the second time."""
    info = next(iter(source.checkpoint.tensors.values()))
    source.read([Read(info, 0, memoryview(bytearray(1)))])
    source.close()
    source.close()


# --- a rate that is kept to --------------------------------------------------------------------


class Noted(Stop):
    """Notes how long it would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)


def test_a_throttle_counts_the_bytes_of_all_workers() -> None:
    """Each waits until its bytes are due behind those of the others; idle time is not saved up."""
    now, stop = [100.0], Noted()
    throttle = Throttle(1000, stop, lambda: now[0])
    throttle.take(500)
    throttle.take(500)
    now[0] = 101.5
    throttle.take(0)
    throttle.take(2000)
    assert stop.waits == [0.5, 1.0, 0.0, 2.0]


def test_a_throttled_source_is_the_source(source: Source, tensors: Tensors) -> None:
    """The same bytes, and every one of them counted."""
    stop = Noted()
    held = ThrottledSource(source, Throttle(1000, stop, lambda: 0.0))
    info = max(held.checkpoint.tensors.values(), key=lambda info: info.nbytes)
    buffer = memoryview(bytearray(info.nbytes))
    held.read([Read(info, 0, buffer), Read(info, 0, buffer[:10])])
    assert bytes(buffer) == tensors[info.name][2]
    other = OtherFile("vocab/merges.txt", 4000)
    held.read_other(other, memoryview(bytearray(3000)), 2000)
    assert stop.waits == [(info.nbytes + 10) / 1000, (info.nbytes + 10 + 2000) / 1000]
    held.close()


def test_a_run_is_held_back(tmp_path: Path) -> None:
    """By `max_rate`, whatever the workers."""
    folder = write_checkpoint(tmp_path / "source", two_shards(qwen_tensors(hidden=64)))
    total = streamconv.plan(folder).read_bytes
    result = streamconv.merge(folder, tmp_path / "out", max_rate=f"{4 * total}/s", jobs=4)
    assert result.seconds >= 0.25

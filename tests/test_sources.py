"""The contract of a source, held by every kind alike, and what each of them adds."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from folders import Tensors, qwen_tensors, two_shards, write_checkpoint
from hub_server import Hub, taken_for_the_hub

from streamconv.checkpoint import OtherFile
from streamconv.sources import Read, Source
from streamconv.sources.opening import open_source

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

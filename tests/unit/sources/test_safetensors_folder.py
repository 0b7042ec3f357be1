"""A folder that changes after it was opened."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from folders import qwen_tensors, write_checkpoint

from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import BadCheckpoint, IOFailed, SourceChanged
from streamconv.sources.base import Read, Source
from streamconv.sources.safetensors_folder import open_folder
from streamconv.system.file_ops import Files

SHARD = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "src", {SHARD: qwen_tensors()}, index=False)


@pytest.fixture
def source(folder: Path) -> Iterator[Source]:
    with closing(open_folder(str(folder))) as source:
        yield source


def last_tensor(source: Source) -> TensorInfo:
    return max(source.checkpoint.tensors.values(), key=lambda info: info.offset + info.nbytes)


def read(source: Source, info: TensorInfo) -> bytes:
    buffer = memoryview(bytearray(info.nbytes))
    source.read([Read(info, 0, buffer)])
    return bytes(buffer)


def test_a_file_that_becomes_shorter_while_it_is_open(folder: Path, source: Source) -> None:
    """The bytes that are gone are missed where they are read, never taken for zeros."""
    info = last_tensor(source)
    assert read(source, info) == (folder / SHARD).read_bytes()[info.offset :]
    os.truncate(folder / SHARD, info.offset + info.nbytes - 1)
    with pytest.raises(BadCheckpoint, match=r"has become shorter: .* ended 1 bytes early"):
        read(source, info)


def test_a_file_that_is_replaced_before_it_is_read(folder: Path, source: Source) -> None:
    """Of the same size, with another header."""
    raw = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(raw.replace(b"BF16", b"F16 ", 1))
    with pytest.raises(BadCheckpoint, match="its header is another"):
        read(source, last_tensor(source))


def test_a_file_that_grows_between_two_looks_at_it(folder: Path) -> None:
    """Its size was checked before; whoever writes to it could do so for ever."""

    (folder / "config.json").write_text("{}")

    class Growing(Files):
        def open_read(self, path: Path) -> int:
            if path.name == "config.json":
                with path.open("ab") as file:
                    file.write(b" ")
            return super().open_read(path)

    with pytest.raises(SourceChanged, match=r"config\.json has changed while it was read"):
        open_folder(str(folder), files=Growing())


def test_a_device_that_takes_the_place_of_a_file_before_it_is_opened(folder: Path) -> None:
    """It was a file when it was looked at. /dev/zero has no end, and a FIFO waits."""

    (folder / "config.json").write_text("{}")

    class Replacing(Files):
        def open_read(self, path: Path) -> int:
            if path.name == "config.json":
                path.unlink()
                path.symlink_to("/dev/zero")
            return super().open_read(path)

    with pytest.raises(IOFailed, match=r"cannot read config\.json: it is not a regular file"):
        open_folder(str(folder), files=Replacing())

"""A folder that changes after it was opened."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from folders import qwen_tensors, write_checkpoint

from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import BadCheckpoint
from streamconv.sources.base import Read, Source
from streamconv.sources.safetensors_folder import open_folder

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

"""The header of a shard is read from its file, or refused with the file's name."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from streamconv.errors import BadCheckpoint, IOFailed
from streamconv.sources.shard_header import (
    digest_of_open_shard,
    header_digest,
    read_local_header,
    read_unlisted_header,
)
from streamconv.system.file_ops import Files


class Unreadable(Files):
    """A disk that fails when a file is read."""

    def _read_some(self, fd: int, buffer: memoryview, offset: int) -> int:
        raise OSError(5, "Input/output error")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tensors = {"b": torch.zeros(2, 3), "a": torch.zeros(4, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "w.safetensors")
    return tmp_path


def test_a_header_is_that_of_safetensors(folder: Path) -> None:
    raw = (folder / "w.safetensors").read_bytes()
    found = read_local_header(folder, "w.safetensors", Files())
    assert {entry.name: entry.shape for entry in found.header.entries} == {"a": (4,), "b": (2, 3)}
    length = int.from_bytes(raw[:8], "little")
    assert found.file.size == len(raw)
    assert found.file.digest == header_digest(raw[8 : 8 + length])
    assert found.header.data_start == 8 + length


def test_the_digest_of_an_open_shard(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is the same, in blocks of any size, and another one for another header."""
    files, path = Files(), folder / "w.safetensors"
    expected = read_local_header(folder, path.name, files).file.digest
    size = path.stat().st_size
    for block in (1, 7, 2**18):
        monkeypatch.setattr("streamconv.sources.shard_header.DIGEST_BLOCK", block)
        fd = files.open_read(path)
        assert digest_of_open_shard(files, fd, size, path.name) == expected
        files.close(fd)
    save_file({"c": torch.zeros(2, 3)}, path)
    assert read_local_header(folder, path.name, files).file.digest != expected


def test_a_file_that_ends_in_its_header(folder: Path) -> None:
    path = folder / "w.safetensors"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(BadCheckpoint, match=r"cannot read w.safetensors: the first 8 bytes"):
        read_local_header(folder, path.name, Files())
    placeholder = read_unlisted_header(folder, path.name, Files())
    assert (placeholder.header.entries, placeholder.file.size) == ((), 20)


def test_a_disk_that_fails(folder: Path) -> None:
    with pytest.raises(IOFailed, match=r"cannot read the header of w.safetensors: Input/output"):
        read_local_header(folder, "w.safetensors", Unreadable())
    assert read_unlisted_header(folder, "w.safetensors", Unreadable()).header.entries == ()


def test_a_file_that_is_missing(folder: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"x.safetensors: it is missing from"):
        read_local_header(folder, "x.safetensors", Files())

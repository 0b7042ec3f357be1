"""Chunks are found where torch stored them, and refused if they are not as the metadata says."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dcp_folders import write_dcp

from streamconv.errors import BadCheckpoint
from streamconv.formats.dcp_metadata_reader import read_metadata
from streamconv.formats.dcp_tensors import Chunk, StoredBytes, StoredTensor
from streamconv.sources.dcp_chunks import ChunkFinder
from streamconv.sources.local_files import LocalFiles
from streamconv.system.file_ops import Files

WEIGHT = torch.arange(24, dtype=torch.int16).reshape(4, 6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A weight in four chunks, and a plain value."""
    write_dcp(tmp_path, {"w": (WEIGHT, [[2], [4]])}, {"step": 7}, files=2)
    return tmp_path


def contents(folder: Path) -> tuple[StoredTensor, StoredBytes]:
    metadata = read_metadata((folder / ".metadata").read_bytes(), "it")
    return metadata.tensors[0], metadata.others[0]


def finder(folder: Path) -> ChunkFinder:
    return ChunkFinder(LocalFiles(folder, Files()))


def test_elements_are_where_the_map_says(folder: Path) -> None:
    stored, _ = contents(folder)
    found = torch.zeros(24, dtype=torch.int16)
    for box in finder(folder).chunk_map(stored).boxes:
        data = (folder / box.file).read_bytes()[box.begin :]
        for run in range(box.runs):
            begin, count = box.position(run) // 2, box.run // 2
            part = bytearray(data[run * box.run : (run + 1) * box.run])
            found[begin : begin + count] = torch.frombuffer(part, dtype=torch.int16)
    assert torch.equal(found.reshape(4, 6), WEIGHT)


def of_another_dtype(stored: StoredTensor) -> StoredTensor:
    return replace(stored, dtype="BF16")


def of_a_dtype_of_torch_alone(stored: StoredTensor) -> StoredTensor:
    return replace(stored, dtype="complex128")


def in_one_place(stored: StoredTensor) -> StoredTensor:
    first = stored.chunks[0]
    place = {"file": first.file, "offset": first.offset, "nbytes": first.nbytes}
    alike = [c for c in stored.chunks if c.sizes == first.sizes]
    moved: list[Chunk] = [replace(c, **place) if c in alike else c for c in stored.chunks]
    return replace(stored, chunks=tuple(moved))


def after_the_end(stored: StoredTensor) -> StoredTensor:
    first, *rest = stored.chunks
    return replace(stored, chunks=(replace(first, nbytes=10**6), *rest))


def cut_otherwise(stored: StoredTensor) -> StoredTensor:
    shapes = {(2, 4): (2, 2), (2, 2): (2, 4)}
    offsets = {(0, 4): (0, 2), (2, 4): (2, 2)}
    chunks = (
        replace(c, sizes=shapes[c.sizes], offsets=offsets.get(c.offsets, c.offsets))
        for c in stored.chunks
    )
    return replace(stored, chunks=tuple(chunks))


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (of_another_dtype, r"holds I16 \[2, 4\] there, .metadata says BF16 \[2, 4\]"),
        (of_a_dtype_of_torch_alone, "is complex128, which safetensors cannot hold"),
        (in_one_place, ".metadata says of two chunks that they are the same bytes"),
        (after_the_end, "ends at byte 1000000 of .*: the file is cut short"),
        (cut_otherwise, r"holds I16 \[2, 4\] there, .metadata says I16 \[2, 2\]"),
    ],
)
def test_metadata_that_does_not_say_what_is_there(
    folder: Path, change: Callable[[StoredTensor], StoredTensor], fact: str
) -> None:
    stored, _ = contents(folder)
    with pytest.raises(BadCheckpoint, match=fact):
        finder(folder).chunk_map(change(stored))


def test_a_value_is_intact_or_refused(folder: Path) -> None:
    _, value = contents(folder)
    finder(folder).check_value(value)
    path = folder / value.file
    raw = bytearray(path.read_bytes())
    raw[value.offset + value.nbytes - 30] ^= 1
    path.write_bytes(raw)
    with pytest.raises(BadCheckpoint, match="value step"):
        finder(folder).check_value(value)

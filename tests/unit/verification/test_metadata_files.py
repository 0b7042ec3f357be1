"""Index and manifest are read, and what contradicts the tensors is found."""

import json
from dataclasses import replace
from typing import Any

import pytest
from memory_source import MemorySource

from streamconv.checkpoint.types import OtherFile
from streamconv.errors import BadCheckpoint
from streamconv.sources.shard_index import read_index
from streamconv.verification.metadata_files import (
    index_differences,
    is_description,
    read_casting,
    read_json,
    read_manifest,
)

INDEX = "model.safetensors.index.json"
MANIFEST = "streamconv.json"


def having(**files: Any) -> MemorySource:
    others = {INDEX if name == "index" else MANIFEST: file for name, file in files.items()}
    raw = {n: f if isinstance(f, bytes) else json.dumps(f).encode() for n, f in others.items()}
    return MemorySource({"w": ("U8", (4,), b"1234")}, raw)


def opened(index: dict[str, Any]) -> MemorySource:
    """A checkpoint whose index was read when it was opened, and is not read again."""

    class ReadBefore(MemorySource):
        def read_other(self, other: OtherFile, buffer: memoryview, start: int) -> int:
            raise AssertionError(other)

    source = ReadBefore({"w": ("U8", (4,), b"1234")}, {INDEX: b"any"})
    total_size = read_index({"weight_map": {"w": "a.safetensors"}, **index}, INDEX).total_size
    source.checkpoint = replace(source.checkpoint, index_total_size=total_size)
    return source


@pytest.mark.parametrize("index", [{}, {"metadata": {}}, {"metadata": {"total_size": 4}}])
def test_an_index_that_is_right(index: dict[str, Any]) -> None:
    assert list(index_differences(opened(index))) == []
    assert list(index_differences(having())) == []


@pytest.mark.parametrize("total", [5, "4", 4.0, True, [4]])
def test_an_index_with_a_wrong_total(total: object) -> None:
    for metadata in ({"total_size": total}, total):
        (difference,) = index_differences(opened({"metadata": metadata}))
        assert difference.subject == INDEX
        assert difference.detail == f"says total_size = {total}, the tensors take 4"


@pytest.mark.parametrize("raw", [b"{", b"[]", b"\xff"])
def test_files_that_hold_no_object(raw: bytes) -> None:
    with pytest.raises(BadCheckpoint, match=MANIFEST):
        read_manifest(having(manifest=raw))


def test_casts_of_a_manifest() -> None:
    assert read_manifest(having()) is None
    assert read_casting(having()).dtype is None
    casting = {"dtype": "F32", "dequantize": None, "all": True}
    assert read_casting(having(manifest={"casting": casting})).dtype == "F32"
    for wrong in ("F32", {}, {**casting, "dtype": "F31"}, {**casting, "all": 1}):
        with pytest.raises(BadCheckpoint, match=MANIFEST):
            read_casting(having(manifest={"casting": wrong}))


def test_a_file_is_read_whole() -> None:
    source = having(manifest={"a": ["b"] * 1000})
    assert read_json(source, source.checkpoint.others[0]) == {"a": ["b"] * 1000}


@pytest.mark.parametrize(
    ("name", "own"),
    [
        (INDEX, True),
        (MANIFEST, True),
        ("notes/", True),
        ("config.json", False),
        ("streamconv-journal-1.jsonl", False),
        ("streamconv.log", False),
        ("out.streamconv-lock-1", False),
    ],
)
def test_files_that_describe_the_output(name: str, own: bool) -> None:
    assert is_description(OtherFile(name, 1)) == own

"""Renamed tensors are read under their stored names."""

import pytest
from memory_source import MemorySource

from streamconv.checkpoint.user_renames import parse_rename
from streamconv.errors import UsageError
from streamconv.sources.base import Read
from streamconv.sources.wrappers.rename import with_renames


def test_the_bytes_are_those_of_the_stored_name() -> None:
    source = MemorySource({"m.a": ("U8", (2,), b"ab"), "m.b": ("U8", (2,), b"cd")})
    renamed = with_renames(source, [parse_rename("m.a=m.x"), parse_rename("m.=")])
    tensors = renamed.checkpoint.tensors
    assert list(tensors) == ["x", "b"]
    buffer = memoryview(bytearray(3))
    renamed.read([Read(tensors["b"], 1, buffer[:1]), Read(tensors["x"], 0, buffer[1:])])
    assert bytes(buffer) == b"dab"


def test_without_renames_it_is_the_source_itself() -> None:
    source = MemorySource({"a": ("U8", (1,), b"a")})
    assert with_renames(source, []) is source


def test_a_rename_that_changes_nothing() -> None:
    with pytest.raises(UsageError):
        with_renames(MemorySource({"a": ("U8", (1,), b"a")}), [parse_rename("z=y")])

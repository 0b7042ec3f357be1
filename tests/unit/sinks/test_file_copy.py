"""Whole files of the result: copies and checksums."""

import errno
import hashlib
from pathlib import Path
from typing import Any

import pytest
from generators import returned
from shard_plans import EmptySource, names, plan_of
from xxhash import xxh3_128_hexdigest

from streamconv.checkpoint.types import OtherFile
from streamconv.errors import SourceChanged
from streamconv.sinks.file_copy import (
    COPY_BYTES,
    HASH_BYTES,
    copy_other,
    make_folders,
    sha256_of,
    write_edited,
)
from streamconv.system.file_ops import Files


def test_the_folders_of_a_file_are_made(tmp_path: Path) -> None:
    """All of them, but not the file; a second time changes nothing."""
    for _ in range(2):
        make_folders(Files(), tmp_path, "a/b/file")
    make_folders(Files(), tmp_path, "file")
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["a", "a/b"]


@pytest.mark.parametrize("size", [0, 1, COPY_BYTES, COPY_BYTES + 1])
def test_a_copy_has_the_bytes_of_the_source(tmp_path: Path, size: int) -> None:
    """And the digest is that of these bytes."""
    data = bytes(k % 251 for k in range(size))
    other = OtherFile("notes/readme", size)
    source = EmptySource(plan_of([1], tmp_path).checkpoint, {other.name: data})
    copied = copy_other(Files(), tmp_path, source, other)
    assert copied == (size, xxh3_128_hexdigest(data))
    assert (tmp_path / "notes" / "readme").read_bytes() == data


@pytest.mark.parametrize("now", [b"{}", b"", b"{} ", b"[]"])
def test_an_edited_file_is_written_if_it_was_not_changed(tmp_path: Path, now: bytes) -> None:
    """By somebody else since it was planned: longer, shorter, or of the same length."""
    other = OtherFile("config.json", 2)
    source = EmptySource(plan_of([1], tmp_path).checkpoint, {other.name: now})
    if now != b"{}":
        with pytest.raises(SourceChanged, match=r"config\.json has changed since it was planned"):
            write_edited(Files(), tmp_path, source, other, b"{}", b"new")
        assert not (tmp_path / "config.json").exists()
        return
    written = write_edited(Files(), tmp_path, source, other, b"{}", b"new")
    assert written == (3, xxh3_128_hexdigest(b"new"))
    assert (tmp_path / "config.json").read_bytes() == b"new"


@pytest.mark.parametrize("jobs", [1, 3])
def test_checksums_are_those_of_the_files(tmp_path: Path, jobs: int) -> None:
    """Of files that are empty, of a block, and of more."""
    contents = {f"f{size}": bytes(size) for size in (0, 1, HASH_BYTES, HASH_BYTES + 5)}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    expected = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    assert returned(sha256_of(Files(), tmp_path, list(contents), jobs)) == expected


def test_a_file_that_cannot_be_read_back(tmp_path: Path) -> None:
    """The error is raised, and every descriptor is closed."""
    opened: list[int] = []

    class Failing(Files):
        def open_read(self, path: Path) -> int:
            opened.append(super().open_read(path))
            return opened[-1]

        def read_into(self, fd: int, buffer: memoryview, offset: int) -> int:
            raise OSError(errno.EIO, "broken")

        def close(self, fd: int) -> None:
            opened.remove(fd)
            super().close(fd)

    for name in "ab":
        (tmp_path / name).touch()
    arguments: Any = (Failing(), tmp_path, ["a", "b"], 2)
    with pytest.raises(OSError, match="broken"):
        returned(sha256_of(*arguments))
    assert opened == []
    assert names(tmp_path) == ["a", "b"]

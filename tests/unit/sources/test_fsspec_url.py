"""Files at a URL: what the listing says of them, and what becomes of its file system's errors."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from streamconv.errors import BadCheckpoint, IOFailed, SourceChanged, UsageError
from streamconv.options import Opening
from streamconv.sources import fsspec_url
from streamconv.sources.fsspec_url import UrlFiles, open_url
from streamconv.system import retry
from streamconv.system.cancellation import CancelToken

ROOT = "/unit-test-of-urls"
CONTENT = bytes(range(50))


@pytest.fixture
def system() -> Iterator[MemoryFileSystem]:
    """Two files in memory, one of them in a subfolder."""
    system = fsspec.filesystem("memory")
    system.pipe({f"{ROOT}/model.safetensors": CONTENT, f"{ROOT}/a/b.txt": b"text"})
    yield system
    system.rm(ROOT, recursive=True)


def files_of(system: Any) -> UrlFiles:
    return UrlFiles(f"memory:/{ROOT}", system, ROOT, CancelToken())


def test_every_file_is_listed(system: MemoryFileSystem) -> None:
    """By its path below the root."""
    files = files_of(system)
    assert files.sizes == {"model.safetensors": 50, "a/b.txt": 4}
    assert not files.is_cached("a/b.txt")
    files.check_unchanged()


def test_bytes_are_requested_in_ranges(
    system: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of bounded size, into buffers in turn."""
    monkeypatch.setattr(fsspec_url, "RANGE_BYTES", 4)
    asked: list[tuple[int, int]] = []
    whole = system.cat_file

    def cat_file(path: str, start: int, end: int) -> Any:
        asked.append((start, end))
        return whole(path, start=start, end=end)

    monkeypatch.setattr(system, "cat_file", cat_file)
    buffers = [memoryview(bytearray(count)) for count in (6, 0, 3)]
    files_of(system).read_into("model.safetensors", 10, buffers)
    assert b"".join(map(bytes, buffers)) == CONTENT[10:19]
    assert asked == [(10, 14), (14, 16), (16, 19)]


def test_a_file_that_changes_is_noticed(system: MemoryFileSystem) -> None:
    """By what the listing says of it, or by bytes that are not there."""
    files = files_of(system)
    system.pipe(f"{ROOT}/model.safetensors", CONTENT[:9])
    with pytest.raises(SourceChanged, match=r"model.safetensors has changed since it was planned"):
        files.check_unchanged()
    with pytest.raises(SourceChanged, match="of 4 bytes at 8 there are 1"):
        files.read_into("model.safetensors", 8, [memoryview(bytearray(4))])


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (FileNotFoundError("x"), SourceChanged, "w has gone since it was planned"),
        (PermissionError("no key"), IOFailed, "cannot read w: it is not permitted: no key"),
        (RuntimeError("odd"), IOFailed, "cannot read w: odd; tried 6 times"),
        (RuntimeError(), IOFailed, "cannot read w: RuntimeError; tried 6 times"),
    ],
)
def test_errors_of_the_file_system(
    system: MemoryFileSystem,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    raised: type[Exception],
    message: str,
) -> None:
    """Each has its own; those that are not known are tried again."""
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.0)
    files = files_of(system)

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(system, "cat_file", fail)
    with pytest.raises(raised, match=f"^{message}$"):
        files.read_into("w", 0, [memoryview(bytearray(4))])


class Listing:
    """A file system that lists nothing but this."""

    def __init__(self, found: Any) -> None:
        self.found = found

    def find(self, root: str, detail: bool) -> Any:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.mark.parametrize(
    ("found", "raised", "message"),
    [
        ({}, BadCheckpoint, "cannot read memory://x: there are no files"),
        ({"x/w": {"name": "w"}}, BadCheckpoint, "the listing has a file without a size"),
        ({"x/w": {"size": None}}, BadCheckpoint, "the listing has a file without a size"),
        (OSError("no such bucket"), IOFailed, "cannot list memory://x: no such bucket"),
    ],
)
def test_listings_that_cannot_be_used(found: Any, raised: type[Exception], message: str) -> None:
    with pytest.raises(raised, match=message):
        UrlFiles("memory://x", Listing(found), "x", CancelToken())


def test_a_url_that_nothing_opens() -> None:
    with pytest.raises(UsageError, match=r"cannot open nosuch://x/y: .*nosuch") as caught:
        open_url("nosuch://x/y", Opening(), CancelToken())
    assert "pip install 'streamconv[fsspec]'" in caught.value.hint


@pytest.mark.parametrize(
    ("url", "raised"),
    [
        ("dir:///x", UsageError),
        ("generic:///x", UsageError),
        ("generic://file:///x", UsageError),
        ("reference:///x", UsageError),
        ("github:///x", UsageError),
        ("simplecache:///x", UsageError),
        ("asyncwrapper:///x", UsageError),
        ("zip://x::{place}/model.safetensors", UsageError),
        ("tar://x::{place}/model.safetensors", UsageError),
        ("reference://x::{place}/model.safetensors", UsageError),
        ("zip://x::{place}", IOFailed),
        ("tar://x::{place}/missing.tar", IOFailed),
        ("data://x", IOFailed),
    ],
)
def test_file_systems_that_cannot_be_made(
    tmp_path: Path, url: str, raised: type[Exception]
) -> None:
    """By what the URL lacks, or what is at the file that it names."""
    (tmp_path / "model.safetensors").touch()
    location = url.format(place=tmp_path)
    with pytest.raises(raised, match=f"cannot (open|list) {re.escape(location)}: .+"):
        open_url(location, Opening(), CancelToken())

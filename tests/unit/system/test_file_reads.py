"""The contract of the file operations that read, which all classes of them keep."""

import ast
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from file_calls import ON_LINUX, PAGE, content, refusing
from import_graph import modules

from streamconv.system.file_ops import Files
from streamconv.system.file_reads import FileReads
from streamconv.system.linux_file_ops import LinuxFiles

SOME = 7
"""Bytes that a system reads at a time which returns fewer than it was asked for."""


@pytest.fixture(params=[FileReads, Files, pytest.param(LinuxFiles, marks=ON_LINUX)])
def files(request: pytest.FixtureRequest) -> FileReads:
    kind: type[FileReads] = request.param
    return kind()


def test_no_source_can_write() -> None:
    """Its type has only operations that read; the types are checked by mypy."""
    found = {
        name
        for name, path in modules().items()
        if name.startswith("streamconv.sources")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "streamconv.system.file_ops"
    }
    assert found == set()
    writing = {"create", "write", "append", "truncate", "write_file", "make_folder", "set_mode"}
    writing |= {"open_append", "create_small", "rename", "unlink", "remove_folder", "lock"}
    assert writing <= {*dir(Files)}
    assert writing & {*dir(FileReads)} == set()


def test_read_into(files: FileReads, tmp_path: Path) -> None:
    """It fills the buffer from any offset, and no memory around it."""
    path = tmp_path / "f"
    path.write_bytes(content(3 * PAGE + 5))
    fd = files.open_read(path)
    try:
        for offset, nbytes in ((0, 10), (PAGE - 1, PAGE + 3), (3, 0), (2 * PAGE, PAGE + 5)):
            room = memoryview(bytearray(b"\xee" * (nbytes + 2)))
            assert files.read_into(fd, room[1:-1], offset) == nbytes
            assert bytes(room) == b"\xee" + content(3 * PAGE + 5)[offset:][:nbytes] + b"\xee"
    finally:
        files.close(fd)


@pytest.mark.parametrize("place", ["a FIFO", "a device", "a folder"])
def test_what_is_no_regular_file_is_not_read(files: FileReads, tmp_path: Path, place: str) -> None:
    """A FIFO would wait for a writer, and a device may have no end."""
    path = tmp_path / "f"
    makers = {
        "a FIFO": os.mkfifo,
        "a device": lambda path: path.symlink_to("/dev/zero"),
        "a folder": os.mkdir,
    }
    makers[place](path)
    for read in (files.open_read, lambda path: files.read_file(path, 100)):
        with pytest.raises(OSError, match="it is not a regular file"):
            read(path)


def test_a_small_file_is_read_up_to_a_size(files: FileReads, tmp_path: Path) -> None:
    """Somebody may be writing to it."""
    path = tmp_path / "f"
    path.write_bytes(content(100))
    assert files.read_file(path, 100) == files.read_file(path, 10**12) == content(100)
    assert files.read_file(path, 7) == content(100)[:7]


def test_a_read_is_short_only_at_the_end_of_the_file(files: FileReads, tmp_path: Path) -> None:
    """It returns the number of bytes: 0 at the end and after it."""
    path = tmp_path / "f"
    path.write_bytes(content(100))
    fd = files.open_read(path)
    try:
        room = memoryview(bytearray(b"\xee" * 64))
        assert files.read_into(fd, room, 60) == 40
        assert bytes(room) == content(100)[60:] + b"\xee" * 24
        assert files.read_into(fd, room, 100) == 0
        assert files.read_into(fd, room, 5000) == 0
    finally:
        files.close(fd)


def test_a_short_read_is_continued(
    files: FileReads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a read of 0 bytes is the end of the file."""
    path = tmp_path / "f"
    path.write_bytes(content(100))
    read, preadv = os.read, getattr(os, "preadv", None)
    monkeypatch.setattr(os, "read", lambda fd, n: read(fd, min(n, SOME)))
    if preadv is not None:
        monkeypatch.setattr(os, "preadv", lambda fd, bs, at: preadv(fd, [bs[0][:SOME]], at))
    fd = files.open_read(path)
    try:
        room = memoryview(bytearray(90))
        assert files.read_into(fd, room, 3) == 90
        assert bytes(room) == content(100)[3:93]
        assert files.read_into(fd, room, 50) == 50
    finally:
        files.close(fd)


def test_one_descriptor_is_read_by_many_threads(files: FileReads, tmp_path: Path) -> None:
    """Each gets the bytes at its offset, although the descriptor has one position."""
    path = tmp_path / "f"
    path.write_bytes(content(64 * 1024))
    fd = files.open_read(path)
    wrong: list[int] = []

    def read(first: int) -> None:
        room = memoryview(bytearray(512))
        for offset in range(first, 64 * 1024 - 512, 2048):
            files.read_into(fd, room, offset)
            if bytes(room) != content_of_all[offset : offset + 512]:
                wrong.append(offset)

    content_of_all = content(64 * 1024)
    threads = [threading.Thread(target=read, args=(1 + 500 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files.close(fd)
    assert wrong == []


def test_an_error_is_the_system_s_own(files: FileReads, tmp_path: Path) -> None:
    """OSError with its number. The callers word the message."""
    with pytest.raises(FileNotFoundError):
        files.open_read(tmp_path / "none")


def test_what_is_at_a_path(files: FileReads, tmp_path: Path) -> None:
    """A file, a folder, nothing, or a link, followed or not."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "to folder").symlink_to("folder")
    (tmp_path / "to nothing").symlink_to("gone")
    (tmp_path / "loop").symlink_to("loop")
    names = (*files.names(tmp_path), "gone", "file/below")
    found = {
        name: (files.exists(path), files.exists(path, follow=False), files.is_folder(path))
        for name, path in ((name, tmp_path / name) for name in names)
    }
    assert found == {
        "file": (True, True, False),
        "folder": (True, True, True),
        "to folder": (True, True, True),
        "to nothing": (False, True, False),
        "loop": (False, True, False),
        "gone": (False, False, False),
        "file/below": (False, False, False),
    }
    assert [name for name in names if files.is_link(tmp_path / name)] == [
        "loop",
        "to folder",
        "to nothing",
    ]
    assert files.real_path(tmp_path / "to folder" / ".." / "file") == tmp_path.resolve() / "file"
    with pytest.raises(FileNotFoundError):
        files.real_path(tmp_path / "to nothing")


@pytest.mark.parametrize("look", [FileReads.exists, FileReads.is_folder, FileReads.is_link])
def test_an_error_of_the_disk_is_raised(
    files: FileReads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: Callable[..., bool]
) -> None:
    """It does not mean that the path does not exist."""
    monkeypatch.setattr(type(files), "stat", refusing(FileReads.stat, errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        look(files, tmp_path)


def test_a_folder_that_is_gone_has_nothing_in_it(files: FileReads, tmp_path: Path) -> None:
    """Another part may have removed it since its name was listed, ours or anybody's."""
    for guarded in (False, True):
        if guarded:
            files.guard(tmp_path, "gone")
        assert files.scan(tmp_path / "gone") == files.walk(tmp_path / "gone") == []

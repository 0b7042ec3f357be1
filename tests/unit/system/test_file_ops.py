"""The contract of the file operations, which the portable and the Linux class both keep."""

import errno
import os
import stat
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from file_calls import ON_LINUX, PAGE, content, refusing, written
from hypothesis import given, settings
from hypothesis import strategies as st

from streamconv.system.file_ops import Files
from streamconv.system.linux_file_ops import LinuxFiles
from streamconv.system.writeback import Writeback

LINUX = pytest.param(LinuxFiles, marks=ON_LINUX)
SOME = 7
"""Bytes that a system reads at a time which returns fewer than it was asked for."""


@pytest.fixture(params=[Files, LINUX])
def files(request: pytest.FixtureRequest) -> Files:
    kind: type[Files] = request.param
    return kind()


# --- reading -----------------------------------------------------------------------------------


def test_read_into(files: Files, tmp_path: Path) -> None:
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
def test_what_is_no_regular_file_is_not_read(files: Files, tmp_path: Path, place: str) -> None:
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


def test_a_small_file_is_read_up_to_a_size(files: Files, tmp_path: Path) -> None:
    """Somebody may be writing to it."""
    path = tmp_path / "f"
    path.write_bytes(content(100))
    assert files.read_file(path, 100) == files.read_file(path, 10**12) == content(100)
    assert files.read_file(path, 7) == content(100)[:7]


def test_a_read_is_short_only_at_the_end_of_the_file(files: Files, tmp_path: Path) -> None:
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
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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


def test_one_descriptor_is_read_by_many_threads(files: Files, tmp_path: Path) -> None:
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


# --- writing -----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(data=st.data(), size=st.integers(1, 9 * PAGE), window=st.integers(0, 4 * PAGE))
@pytest.mark.parametrize("kind", [Files, LINUX])
def test_runs_in_any_order(
    tmp_path_factory: pytest.TempPathFactory,
    kind: type[Files],
    data: st.DataObject,
    size: int,
    window: int,
) -> None:
    """The file holds the data, whatever the size of the write-back window."""
    path = tmp_path_factory.mktemp("runs") / "f"
    cuts = sorted(data.draw(st.sets(st.integers(1, size))) | {0, size})
    runs = data.draw(st.permutations([*pairwise(cuts)]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamconv.system.linux_file_ops.Writeback", lambda: Writeback(window))
        assert written(kind(), path, content(size), runs) == content(size)


def test_a_short_write_is_continued(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until every byte is written."""
    write, pwrite = os.write, getattr(os, "pwrite", None)
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:PAGE]))
    if pwrite is not None:
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:PAGE], at))
    data = content(4 * PAGE)
    fd = files.create(tmp_path / "f", len(data))
    files.write(fd, memoryview(data), 0)
    files.sync(fd)
    files.close(fd)
    assert (tmp_path / "f").read_bytes() == data
    files.write_file(tmp_path / "g", data)
    assert (tmp_path / "g").read_bytes() == data


def test_one_descriptor_is_written_by_many_threads(files: Files, tmp_path: Path) -> None:
    """Every byte is at its offset, although the descriptor has one position."""
    data = content(64 * PAGE)
    fd = files.create(tmp_path / "f", len(data))

    def write(first: int) -> None:
        for page in range(first, 64, 4):
            begin, end = page * PAGE, (page + 1) * PAGE
            files.write(fd, memoryview(data)[begin:end], begin)

    threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files.close(fd)
    assert (tmp_path / "f").read_bytes() == data


def test_an_existing_file_is_never_overwritten(files: Files, tmp_path: Path) -> None:
    """It is refused and keeps its bytes; so is a dangling link."""
    path, link = tmp_path / "f", tmp_path / "link"
    path.write_bytes(b"old")
    link.symlink_to(tmp_path / "nowhere")
    for existing in (path, link):
        with pytest.raises(FileExistsError):
            files.create(existing, 3)
        with pytest.raises(FileExistsError):
            files.write_file(existing, b"new")
    assert path.read_bytes() == b"old"
    assert not (tmp_path / "nowhere").exists()


def test_modes_follow_the_umask(files: Files, tmp_path: Path) -> None:
    """New files have the permissions that the user has chosen, no more and no fewer."""
    before = os.umask(0o027)
    try:
        files.close(files.create(tmp_path / "f", PAGE))
        files.write_file(tmp_path / "g", b"")
    finally:
        os.umask(before)
    for name in "fg":
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640


@pytest.mark.parametrize("size", [0, 1, 3 * PAGE + 1])
def test_write_file(files: Files, tmp_path: Path, size: int) -> None:
    """One call creates a small file with its content."""
    files.write_file(tmp_path / "f", content(size))
    assert (tmp_path / "f").read_bytes() == content(size)


def test_a_small_file_is_durable_on_return(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`write_file` syncs the file at its true size."""
    synced: list[int] = []
    fsync = os.fsync

    def noted(fd: int) -> None:
        synced.append(os.fstat(fd).st_size)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    files.write_file(tmp_path / "g", content(11))
    assert synced == [11]


def test_a_folder_is_synced_and_renamed(files: Files, tmp_path: Path) -> None:
    """As the commit of a result does it."""
    (tmp_path / "a").mkdir()
    files.write_file(tmp_path / "a" / "f", b"x")
    files.sync_folder(tmp_path / "a")
    files.rename(tmp_path / "a", tmp_path / "b")
    files.sync_folder(tmp_path)
    assert (tmp_path / "b" / "f").read_bytes() == b"x"
    assert not (tmp_path / "a").exists()


def test_errors_are_the_systems_own(files: Files, tmp_path: Path) -> None:
    """OSError with its number. The callers word the message."""
    with pytest.raises(FileNotFoundError):
        files.open_read(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        files.create(tmp_path / "none" / "f", PAGE)


def test_what_is_at_a_path(files: Files, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("look", [Files.exists, Files.is_folder, Files.is_link])
def test_an_error_of_the_disk_is_raised(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: Callable[..., bool]
) -> None:
    """It does not mean that the path does not exist."""
    monkeypatch.setattr(type(files), "stat", refusing(Files.stat, errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        look(files, tmp_path)


def test_a_folder_that_is_gone_has_nothing_in_it(files: Files, tmp_path: Path) -> None:
    """Another part may have removed it since its name was listed, ours or anybody's."""
    for guarded in (False, True):
        if guarded:
            files.guard(tmp_path, "gone")
        assert files.scan(tmp_path / "gone") == files.walk(tmp_path / "gone") == []

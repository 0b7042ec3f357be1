"""The contract of the file operations, held by the portable path and by the fast one alike."""

import ctypes
import errno
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamconv.system.file_ops import HUGE_PAGE, Files, new_buffer
from streamconv.system.linux_file_ops import SYNC_RANGE_WAIT, LinuxFiles, system_files
from streamconv.system.writeback import Writeback

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="calls that only Linux has")
LINUX = pytest.param(LinuxFiles, marks=ON_LINUX)
PAGE = 4096
SOME = 7
"""What a reluctant system reads at a time, in bytes."""


@pytest.fixture(params=[Files, LINUX])
def files(request: pytest.FixtureRequest) -> Files:
    kind: type[Files] = request.param
    return kind()


def content(nbytes: int) -> bytes:
    return bytes((k * 31 + k // 251) % 256 for k in range(nbytes))


def refusing(call: Callable[..., Any], number: int) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    refuse.__name__ = call.__name__
    return refuse


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a listing of descriptors


@pytest.mark.parametrize("nbytes", [1, PAGE, PAGE + 1, HUGE_PAGE + 1])
def test_new_buffer(nbytes: int) -> None:
    """Zeroed memory of that size that can be written."""
    buffer = new_buffer(nbytes)
    assert len(buffer) == nbytes
    assert not any(buffer)
    buffer[-1] = 1


# --- reading -----------------------------------------------------------------------------------


def test_read_into(files: Files, tmp_path: Path) -> None:
    """Fills the buffer from any offset, and nothing beside it."""
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


def test_read_into_is_short_at_the_end_of_the_file_alone(files: Files, tmp_path: Path) -> None:
    """Says how much there was; 0 at the end and beyond."""
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


def test_read_into_goes_on_where_the_system_gives_less(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short read that is not the end of the file is no end."""
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
    """Each gets what it asked for, although there is one position in the file."""
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


def written(files: Files, path: Path, data: bytes, runs: Iterable[tuple[int, int]]) -> bytes:
    """What is in a file of `data` whose runs are written in this order."""
    fd = files.create(path, len(data))
    try:
        for begin, end in runs:
            files.write(fd, memoryview(data)[begin:end], begin)
        files.sync(fd)
    finally:
        files.close(fd)
    return path.read_bytes()


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
    """A file is what was written to it and as long as it was said to be, however much may wait."""
    path = tmp_path_factory.mktemp("runs") / "f"
    cuts = sorted(data.draw(st.sets(st.integers(1, size))) | {0, size})
    runs = data.draw(st.permutations([*pairwise(cuts)]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamconv.system.linux_file_ops.Writeback", lambda: Writeback(window))
        assert written(kind(), path, content(size), runs) == content(size)


def test_write_goes_on_where_the_system_takes_less(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short write is no end."""
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
    """Every byte is where it belongs, although there is one position in the file."""
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


def test_what_is_there_is_never_written_over(files: Files, tmp_path: Path) -> None:
    """A file that exists is refused and keeps its bytes, a dangling link too."""
    path, link = tmp_path / "f", tmp_path / "link"
    path.write_bytes(b"old")
    link.symlink_to(tmp_path / "nowhere")
    for place in (path, link):
        with pytest.raises(FileExistsError):
            files.create(place, 3)
        with pytest.raises(FileExistsError):
            files.write_file(place, b"new")
    assert path.read_bytes() == b"old"
    assert not (tmp_path / "nowhere").exists()


def test_modes_follow_the_umask(files: Files, tmp_path: Path) -> None:
    """Nothing is more open than the user wants it, nor more closed."""
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
    """A small file is what it was to be, in one call."""
    files.write_file(tmp_path / "f", content(size))
    assert (tmp_path / "f").read_bytes() == content(size)


def test_files_are_durable_before_they_are_done(
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
    """What the commit of a result needs of folders."""
    (tmp_path / "a").mkdir()
    files.write_file(tmp_path / "a" / "f", b"x")
    files.sync_folder(tmp_path / "a")
    files.rename(tmp_path / "a", tmp_path / "b")
    files.sync_folder(tmp_path)
    assert (tmp_path / "b" / "f").read_bytes() == b"x"
    assert not (tmp_path / "a").exists()


def test_errors_are_the_systems_own(files: Files, tmp_path: Path) -> None:
    """OSError with its number, for callers to put into words."""
    with pytest.raises(FileNotFoundError):
        files.open_read(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        files.create(tmp_path / "none" / "f", PAGE)


def test_what_is_at_a_path(files: Files, tmp_path: Path) -> None:
    """A file, a folder, nothing, or a link, looked at itself or followed."""
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
def test_what_the_system_does_not_tell_is_not_guessed(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: Callable[..., bool]
) -> None:
    """A disk that fails is no folder without files."""
    monkeypatch.setattr(type(files), "stat", refusing(Files.stat, errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        look(files, tmp_path)


# --- what Linux has, and what file systems refuse of it ------------------------------------------


@ON_LINUX
def test_files_of_this_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast path on Linux, the portable one elsewhere."""
    assert type(system_files()) is LinuxFiles
    for other in ("darwin", "win32"):
        monkeypatch.setattr(sys, "platform", other)
        assert type(system_files()) is Files


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What is asked of the system about runs of bytes in the tests' only open file."""
    made: list[tuple[Any, ...]] = []
    pwrite, fallocate, fadvise = os.pwrite, os.posix_fallocate, os.posix_fadvise
    sync_range = LinuxFiles._sync_range

    def noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*arguments: Any) -> Any:
            # neither the descriptor nor what is written
            made.append((name, *(a for a in arguments[1:] if isinstance(a, int))))
            return call(*arguments)

        return noting

    def sync_noted(self: LinuxFiles, fd: int, offset: int, nbytes: int, flags: int) -> None:
        made.append(
            ("wait" if flags & SYNC_RANGE_WAIT == SYNC_RANGE_WAIT else "begin", offset, nbytes)
        )
        sync_range(self, fd, offset, nbytes, flags)

    monkeypatch.setattr(os, "posix_fallocate", noted("allocate", fallocate))
    monkeypatch.setattr(os, "pwrite", noted("write", pwrite))
    monkeypatch.setattr(os, "posix_fadvise", noted("advise", fadvise))
    monkeypatch.setattr(LinuxFiles, "_sync_range", sync_noted)
    return made


@ON_LINUX
def test_what_is_written_is_soon_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[tuple[Any, ...]]
) -> None:
    """Space beforehand; a run is begun at once, and the oldest waited for when they are many."""
    monkeypatch.setattr("streamconv.system.linux_file_ops.Writeback", lambda: Writeback(2 * PAGE))
    runs = [(page * PAGE, (page + 1) * PAGE) for page in (3, 1, 0, 2)]
    data = content(4 * PAGE)
    assert written(LinuxFiles(), tmp_path / "f", data, runs) == data
    assert calls == [
        ("allocate", 0, 4 * PAGE),
        *(("write", 3 * PAGE), ("begin", 3 * PAGE, PAGE)),
        *(("write", PAGE), ("begin", PAGE, PAGE)),
        *(("write", 0), ("begin", 0, PAGE)),
        *(("wait", 3 * PAGE, PAGE), ("advise", 3 * PAGE, PAGE, os.POSIX_FADV_DONTNEED)),
        *(("write", 2 * PAGE), ("begin", 2 * PAGE, PAGE)),
        *(("wait", PAGE, PAGE), ("advise", PAGE, PAGE, os.POSIX_FADV_DONTNEED)),
    ]


@ON_LINUX
@pytest.mark.parametrize("number", [None, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_system_that_does_not_write_ranges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    """It has no such call, or refuses it; the file is written when the system sees fit."""

    def refuse(*_: int) -> int:
        ctypes.set_errno(number or 0)
        return -1

    call = None if number is None else refuse
    monkeypatch.setattr("streamconv.system.linux_file_ops._sync_file_range", lambda: call)
    monkeypatch.setattr("streamconv.system.linux_file_ops.Writeback", lambda: Writeback(0))
    data = content(3 * PAGE + 5)
    runs = [(PAGE, 3 * PAGE + 5), (0, PAGE)]
    assert written(LinuxFiles(), tmp_path / "f", data, runs) == data


@ON_LINUX
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_what_fails_on_its_way_to_the_disk_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The write was taken, the disk does not take it: a call fails once, and no other does."""

    def fail(*_: int) -> int:
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr("streamconv.system.linux_file_ops._sync_file_range", lambda: fail)
    files = LinuxFiles()
    fd = files.create(tmp_path / "f", PAGE)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        files.write(fd, memoryview(bytes(PAGE)), 0)
    files.close(fd)
    assert caught.value.errno == number


@ON_LINUX
def test_the_call_is_the_systems() -> None:
    """A descriptor that is not open is what it says of one."""
    with pytest.raises(OSError, match="Bad file descriptor"):
        LinuxFiles()._sync_range(10**6, 0, 1, SYNC_RANGE_WAIT)


@ON_LINUX
@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_does_not_allocate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The file is written without."""
    monkeypatch.setattr(os, "posix_fallocate", refusing(os.posix_fallocate, number))
    data = content(2 * PAGE + 1)
    assert written(LinuxFiles(), tmp_path / "f", data, [(5, len(data)), (0, 5)]) == data


@ON_LINUX
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_space_shows_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Allocation that fails for good is an error, and leaves no descriptor open."""
    monkeypatch.setattr(os, "posix_fallocate", refusing(os.posix_fallocate, number))
    before = open_descriptors()
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        LinuxFiles().create(tmp_path / "f", PAGE)
    assert caught.value.errno == number
    assert open_descriptors() == before

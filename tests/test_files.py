"""The contract of the file operations, held by the portable path and by the fast one alike."""

import ctypes
import errno
import os
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamconv.files import (
    PAGE,
    Files,
    LinuxFiles,
    aligned_buffer,
    page_ceil,
    page_floor,
    system_files,
)

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="calls that only Linux has")
LINUX = pytest.param(LinuxFiles, marks=ON_LINUX)
SOME = 7
"""What a reluctant system reads at a time, in bytes."""


@pytest.fixture(params=[Files, LINUX])
def files(request: pytest.FixtureRequest) -> Files:
    kind: type[Files] = request.param
    return kind()


def content(nbytes: int) -> bytes:
    return bytes((k * 31 + k // 251) % 256 for k in range(nbytes))


def aligned(data: bytes) -> memoryview:
    """`data` in page-aligned memory, filled up with junk to whole pages."""
    buffer = aligned_buffer(len(data))[: page_ceil(len(data))]
    buffer[: len(data)] = data
    buffer[len(data) :] = b"\xee" * (len(buffer) - len(data))
    return buffer


def refusing(call: Callable[..., Any], number: int) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    refuse.__name__ = call.__name__
    return refuse


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a listing of descriptors


# --- pages -------------------------------------------------------------------------------------


@given(st.integers(0, 2**62))
def test_pages(offset: int) -> None:
    """The multiples of a page about an offset."""
    assert page_floor(offset) % PAGE == page_ceil(offset) % PAGE == 0
    assert page_floor(offset) <= offset <= page_ceil(offset)
    assert page_ceil(offset) - page_floor(offset) == (PAGE if offset % PAGE else 0)


@pytest.mark.parametrize("nbytes", [0, 1, PAGE, PAGE + 1, 2 * 2**20 + 1])
def test_aligned_buffer(nbytes: int) -> None:
    """Zeroed memory that can be written, begins on a page and has at least so many bytes."""
    buffer = aligned_buffer(nbytes)
    assert nbytes <= len(buffer) <= page_ceil(nbytes) + PAGE
    assert ctypes.addressof(ctypes.c_char.from_buffer(buffer)) % PAGE == 0
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


def written(files: Files, path: Path, data: bytes, pages: list[int]) -> bytes:
    """What is in a file of `data` whose pages are written in this order."""
    memory = aligned(data)
    fd = files.create(path, len(data))
    try:
        for page in pages:
            files.write(fd, memory[page * PAGE : (page + 1) * PAGE], page * PAGE)
        files.finish(fd, len(data))
    finally:
        files.close(fd)
    return path.read_bytes()


@pytest.mark.parametrize("size", [1, PAGE - 1, PAGE, PAGE + 1, 5 * PAGE + 17])
def test_pages_in_any_order(files: Files, tmp_path: Path, size: int) -> None:
    """A file is what was written to it, and as long as it was said to be, not whole pages."""
    pages = [*range(page_ceil(size) // PAGE)]
    assert written(files, tmp_path / "f", content(size), pages[::-1]) == content(size)
    assert (tmp_path / "f").stat().st_size == size
    assert written(files, tmp_path / "g", content(size), pages[1:] + pages[:1]) == content(size)


@settings(deadline=None, max_examples=15)
@given(data=st.data(), size=st.integers(1, 9 * PAGE))
@pytest.mark.parametrize("kind", [Files, LINUX])
def test_runs_of_pages(
    tmp_path_factory: pytest.TempPathFactory,
    kind: type[Files],
    data: st.DataObject,
    size: int,
) -> None:
    """Runs of several pages, in any order."""
    path = tmp_path_factory.mktemp("runs") / "f"
    memory = aligned(content(size))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(memory) // PAGE))) | {0})
    runs = data.draw(st.permutations([*zip(cuts, [*cuts[1:], len(memory) // PAGE], strict=True)]))
    files = kind()
    fd = files.create(path, size)
    for begin, end in runs:
        files.write(fd, memory[begin * PAGE : end * PAGE], begin * PAGE)
    files.finish(fd, size)
    files.close(fd)
    assert path.read_bytes() == content(size)


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
    files.write(fd, aligned(data), 0)
    files.finish(fd, len(data))
    files.close(fd)
    assert (tmp_path / "f").read_bytes() == data
    files.write_file(tmp_path / "g", data)
    assert (tmp_path / "g").read_bytes() == data


def test_one_descriptor_is_written_by_many_threads(files: Files, tmp_path: Path) -> None:
    """Every page is where it belongs, although there is one position in the file."""
    data = content(64 * PAGE)
    memory = aligned(data)
    fd = files.create(tmp_path / "f", len(data))

    def write(first: int) -> None:
        for page in range(first, 64, 4):
            files.write(fd, memory[page * PAGE : (page + 1) * PAGE], page * PAGE)

    threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files.finish(fd, len(data))
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
    """`finish` and `write_file` sync the file at its true size."""
    synced: list[int] = []
    fsync = os.fsync

    def noted(fd: int) -> None:
        synced.append(os.fstat(fd).st_size)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    assert written(files, tmp_path / "f", content(5), [0]) == content(5)
    files.write_file(tmp_path / "g", content(11))
    assert synced == [5, 11]


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


@ON_LINUX
def test_direct_writes_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file is opened past the page cache, with space for all of its pages."""
    flags: list[int] = []
    spaces: list[tuple[int, int]] = []
    real = os.open

    def noted(path: Any, how: int, *mode: int) -> int:
        flags.append(how)
        return real(path, how, *mode)

    monkeypatch.setattr(os, "open", noted)
    monkeypatch.setattr(os, "posix_fallocate", lambda fd, at, n: spaces.append((at, n)))
    files = LinuxFiles()
    files.close(files.create(tmp_path / "f", 2 * PAGE + 1))
    assert flags[0] & os.O_DIRECT
    assert spaces == [(0, 3 * PAGE)]


@ON_LINUX
def test_a_file_system_without_direct_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes the file and then refuses; the file is written through the cache, and alike."""
    real = os.open
    refused: list[Any] = []

    def indirect(path: Any, flags: int, *mode: int) -> int:
        fd = real(path, flags & ~os.O_DIRECT, *mode)
        if flags & os.O_DIRECT:
            os.close(fd)
            refused.append(path)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return fd

    monkeypatch.setattr(os, "open", indirect)
    files = LinuxFiles()
    data = content(3 * PAGE + 5)
    assert written(files, tmp_path / "f", data, [3, 0, 2, 1]) == data
    assert refused == [tmp_path / "f"]
    with pytest.raises(FileExistsError):
        files.create(tmp_path / "f", 1)
    assert (tmp_path / "f").read_bytes() == data


@ON_LINUX
@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_does_not_allocate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The file is written without."""
    monkeypatch.setattr(os, "posix_fallocate", refusing(os.posix_fallocate, number))
    data = content(2 * PAGE + 1)
    assert written(LinuxFiles(), tmp_path / "f", data, [2, 1, 0]) == data


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


@ON_LINUX
def test_other_errors_of_opening_are_not_swallowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what says that direct writes cannot be done is taken for that."""
    monkeypatch.setattr(os, "open", refusing(os.open, errno.EACCES))
    with pytest.raises(PermissionError):
        LinuxFiles().create(tmp_path / "f", PAGE)

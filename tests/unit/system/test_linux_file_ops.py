"""The file operations of Linux, and file systems that do not support some of them."""

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from file_calls import ON_LINUX, PAGE, content, refusing, written

from streamconv.system import linux_file_ops
from streamconv.system.file_ops import Files
from streamconv.system.linux_file_ops import SYNC_RANGE_WAIT, LinuxFiles, system_files
from streamconv.system.writeback import Writeback


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a listing of descriptors


@ON_LINUX
def test_files_of_this_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast path on Linux, the portable one elsewhere."""
    assert type(system_files()) is LinuxFiles
    for other in ("darwin", "win32"):
        monkeypatch.setattr(sys, "platform", other)
        assert type(system_files()) is Files


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The calls for ranges of the only file that a test has open, without descriptor and data."""
    made: list[tuple[Any, ...]] = []
    pwrite, fadvise = os.pwrite, os.posix_fadvise
    sync_range, allocate = LinuxFiles._sync_range, LinuxFiles._allocate

    def noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*arguments: Any) -> Any:
            made.append((name, *(a for a in arguments[1:] if isinstance(a, int))))
            return call(*arguments)

        return noting

    def sync_noted(self: LinuxFiles, fd: int, offset: int, nbytes: int, flags: int) -> None:
        made.append(
            ("wait" if flags & SYNC_RANGE_WAIT == SYNC_RANGE_WAIT else "begin", offset, nbytes)
        )
        sync_range(self, fd, offset, nbytes, flags)

    def allocate_noted(self: LinuxFiles, fd: int, size: int) -> None:
        made.append(("allocate", size))
        allocate(self, fd, size)

    monkeypatch.setattr(LinuxFiles, "_allocate", allocate_noted)
    monkeypatch.setattr(os, "pwrite", noted("write", pwrite))
    monkeypatch.setattr(os, "posix_fadvise", noted("advise", fadvise))
    monkeypatch.setattr(LinuxFiles, "_sync_range", sync_noted)
    return made


def give(monkeypatch: pytest.MonkeyPatch, name: str, number: int | None) -> None:
    """Let a function of the C library fail with this error number; with None, it is missing."""
    true = linux_file_ops._c_function

    def refuse(*_: int) -> int:
        ctypes.set_errno(number or 0)
        return -1

    def functions(wanted: str) -> Any:
        if wanted != name:
            return true(wanted)
        return None if number is None else refuse

    monkeypatch.setattr(linux_file_ops, "_c_function", functions)


@ON_LINUX
def test_write_back_begins_with_each_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[tuple[Any, ...]]
) -> None:
    """Space is allocated first. When the window is full, the oldest range is waited for."""
    monkeypatch.setattr("streamconv.system.linux_file_ops.Writeback", lambda: Writeback(2 * PAGE))
    runs = [(page * PAGE, (page + 1) * PAGE) for page in (3, 1, 0, 2)]
    data = content(4 * PAGE)
    assert written(LinuxFiles(), tmp_path / "f", data, runs) == data
    assert calls == [
        ("allocate", 4 * PAGE),
        *(("write", 3 * PAGE), ("begin", 3 * PAGE, PAGE)),
        *(("write", PAGE), ("begin", PAGE, PAGE)),
        *(("write", 0), ("begin", 0, PAGE)),
        *(("wait", 3 * PAGE, PAGE), ("advise", 3 * PAGE, PAGE, os.POSIX_FADV_DONTNEED)),
        *(("write", 2 * PAGE), ("begin", 2 * PAGE, PAGE)),
        *(("wait", PAGE, PAGE), ("advise", PAGE, PAGE, os.POSIX_FADV_DONTNEED)),
    ]


@ON_LINUX
@pytest.mark.parametrize("number", [None, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_system_without_sync_file_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    """The call is missing or refused. The system then writes the file when it chooses to."""
    give(monkeypatch, "sync_file_range", number)
    monkeypatch.setattr("streamconv.system.linux_file_ops.Writeback", lambda: Writeback(0))
    data = content(3 * PAGE + 5)
    runs = [(PAGE, 3 * PAGE + 5), (0, PAGE)]
    assert written(LinuxFiles(), tmp_path / "f", data, runs) == data


@ON_LINUX
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_failed_write_back_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The write succeeded but the disk fails: the system reports it once, in this call."""
    give(monkeypatch, "sync_file_range", number)
    files = LinuxFiles()
    fd = files.create(tmp_path / "f", PAGE)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        files.write(fd, memoryview(bytes(PAGE)), 0)
    files.close(fd)
    assert caught.value.errno == number


@ON_LINUX
def test_the_calls_are_the_systems() -> None:
    """They refuse a descriptor that is not open, with the error of the system."""
    with pytest.raises(OSError, match="Bad file descriptor"):
        LinuxFiles()._sync_range(10**6, 0, 1, SYNC_RANGE_WAIT)
    with pytest.raises(OSError, match="Bad file descriptor"):
        LinuxFiles()._allocate(10**6, 1)


@ON_LINUX
@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, None])
def test_a_file_system_that_does_not_allocate(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int | None,
    calls: list[tuple[Any, ...]],
) -> None:
    """The file is written without allocation, and no byte of it twice."""
    give(monkeypatch, "fallocate", number)
    data = content(2 * PAGE + 1)
    assert written(LinuxFiles(), tmp_path / "f", data, [(5, len(data)), (0, 5)]) == data
    assert [call for call in calls if call[0] == "write"] == [("write", 5), ("write", 0)]


@ON_LINUX
@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EIO])
def test_a_file_system_that_does_not_sync_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Such as a shared folder of a virtual machine; but what the disk refuses is an error."""
    monkeypatch.setattr(os, "fsync", refusing(os.fsync, number))
    before = open_descriptors()
    if number == errno.EIO:
        with pytest.raises(OSError, match=os.strerror(number)):
            LinuxFiles().sync_folder(tmp_path)
    else:
        LinuxFiles().sync_folder(tmp_path)
    assert open_descriptors() == before


@ON_LINUX
def test_an_allocation_that_a_signal_has_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is done again."""
    left = [errno.EINTR, errno.EINTR]

    def allocate(*_: int) -> int:
        ctypes.set_errno(left[-1] if left else 0)
        return -1 if left and left.pop() else 0

    monkeypatch.setattr(linux_file_ops, "_c_function", lambda _: allocate)
    LinuxFiles()._allocate(0, PAGE)
    assert not left


@ON_LINUX
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_space_shows_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A failed allocation is an error, and leaves no descriptor open."""
    give(monkeypatch, "fallocate", number)
    before = open_descriptors()
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        LinuxFiles().create(tmp_path / "f", PAGE)
    assert caught.value.errno == number
    assert open_descriptors() == before


@ON_LINUX
@pytest.mark.parametrize("is_cached", [True, False])
def test_only_what_is_not_in_memory_is_asked_for(
    is_cached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces that the system takes whole, from the first byte to the last."""
    (tmp_path / "f").write_bytes(bytes(3 * 2**20))
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(linux_file_ops, "_is_cached", lambda fd, offset: is_cached)
    monkeypatch.setattr(linux_file_ops, "_advice_bytes", lambda device: 2**20)
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, begin, n, advice: asked.append((begin, n)))
    files = LinuxFiles()
    fd = files.open_read(tmp_path / "f")
    files.read_ahead(fd, 100, 2**21)
    files.read_ahead(fd, 7, 0)
    files.close(fd)
    assert asked == ([] if is_cached else [(100, 2**20), (100 + 2**20, 2**20)])


@ON_LINUX
def test_what_no_advice_can_be_given_for(tmp_path: Path) -> None:
    """Nothing after the end of a file is in memory; an unknown device takes the usual amount."""
    (tmp_path / "f").write_bytes(b"abc")
    files = LinuxFiles()
    fd = files.open_read(tmp_path / "f")
    assert linux_file_ops._is_cached(fd, 3) is False
    assert linux_file_ops._advice_bytes(os.fstat(fd).st_dev) >= linux_file_ops.ADVICE_BYTES
    assert linux_file_ops._advice_bytes(os.makedev(4000, 1)) == linux_file_ops.ADVICE_BYTES
    files.close(fd)

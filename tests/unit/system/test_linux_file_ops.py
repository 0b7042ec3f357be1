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
    pwrite, fallocate, fadvise = os.pwrite, os.posix_fallocate, os.posix_fadvise
    sync_range = LinuxFiles._sync_range

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

    monkeypatch.setattr(os, "posix_fallocate", noted("allocate", fallocate))
    monkeypatch.setattr(os, "pwrite", noted("write", pwrite))
    monkeypatch.setattr(os, "posix_fadvise", noted("advise", fadvise))
    monkeypatch.setattr(LinuxFiles, "_sync_range", sync_noted)
    return made


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
def test_a_system_without_sync_file_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    """The call is missing or refused. The system then writes the file when it chooses to."""

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
def test_a_failed_write_back_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The write succeeded but the disk fails: the system reports it once, in this call."""

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
    """It refuses a descriptor that is not open, with the error of the system."""
    with pytest.raises(OSError, match="Bad file descriptor"):
        LinuxFiles()._sync_range(10**6, 0, 1, SYNC_RANGE_WAIT)


@ON_LINUX
@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_does_not_allocate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The file is written without allocation."""
    monkeypatch.setattr(os, "posix_fallocate", refusing(os.posix_fallocate, number))
    data = content(2 * PAGE + 1)
    assert written(LinuxFiles(), tmp_path / "f", data, [(5, len(data)), (0, 5)]) == data


@ON_LINUX
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_space_shows_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A failed allocation is an error, and leaves no descriptor open."""
    monkeypatch.setattr(os, "posix_fallocate", refusing(os.posix_fallocate, number))
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

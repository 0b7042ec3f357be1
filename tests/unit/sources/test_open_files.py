"""A bounded number of files is open, and one that is opened again is the same as before."""

import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from streamconv.errors import SourceChanged
from streamconv.sources.open_files import OpenFiles
from streamconv.system.file_ops import Files
from streamconv.system.linux_file_ops import LinuxFiles

NAMES = [f"file-{number}" for number in range(20)]


class Counted(LinuxFiles):
    """Counts the descriptors that are open, and refuses to be given more than `most`."""

    def __init__(self, most: int = 1000) -> None:
        super().__init__()
        self.most = most
        self.open: set[int] = set()
        self.highest = 0

    def open_read(self, path: Path) -> int:
        if len(self.open) == self.most:
            raise OSError(24, os.strerror(24))
        fd = super().open_read(path)
        self.open.add(fd)
        self.highest = max(self.highest, len(self.open))
        return fd

    def close(self, fd: int) -> None:
        self.open.remove(fd)
        super().close(fd)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).write_text(name)
    return tmp_path


def content(opened: OpenFiles, files: Files, name: str) -> str:
    buffer = bytearray(7)
    with opened.descriptor(name) as fd:
        return buffer[: files.read_into(fd, memoryview(buffer), 0)].decode()


def test_no_more_are_open_than_allowed(folder: Path) -> None:
    files = Counted()
    opened = OpenFiles(files, folder.joinpath, limit=3)
    for name in NAMES * 2:
        assert content(opened, files, name) == name
    assert files.highest == 3
    opened.check_unchanged()
    opened.close()
    opened.close()
    assert not files.open


def test_what_was_used_last_stays_open(folder: Path) -> None:
    checked: list[str] = []
    files = Counted()
    opened = OpenFiles(files, folder.joinpath, lambda name, fd, size: checked.append(name), limit=2)
    for name in ("file-0", "file-1", "file-0", "file-2"):
        content(opened, files, name)
    (folder / "file-0").unlink()
    assert content(opened, files, "file-0") == "file-0"
    content(opened, files, "file-1")
    assert checked == ["file-0", "file-1", "file-2"], "each is checked when it is first opened"


def test_a_descriptor_in_use_is_not_closed(folder: Path) -> None:
    """Also if more are in use than may stay open. Afterward only so many are left."""
    files = Counted()
    opened = OpenFiles(files, folder.joinpath, limit=2)
    with ExitStack() as uses:
        fds = [uses.enter_context(opened.descriptor(name)) for name in NAMES]
        assert {os.pread(fd, 7, 0).decode() for fd in fds} == set(NAMES)
    assert len(files.open) == 2


def test_many_threads(folder: Path) -> None:
    """Each reads the bytes of its own file, in 4,000 reads of 20 files through 3 descriptors."""
    files = Counted()
    opened = OpenFiles(files, folder.joinpath, limit=3)
    names = random.Random(7).choices(NAMES, k=4000)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda name: content(opened, files, name), names)) == names
    assert files.highest <= 3 + 8
    assert len(files.open) <= 3


def test_the_system_allows_fewer_than_expected(folder: Path) -> None:
    """Unused files are closed for another one; if all are in use, the error is the system's."""
    files = Counted(most=4)
    opened = OpenFiles(files, folder.joinpath, limit=10)
    for name in NAMES:
        assert content(opened, files, name) == name
    with ExitStack() as uses:
        for name in NAMES[:4]:
            uses.enter_context(opened.descriptor(name))
        with pytest.raises(OSError, match="Too many open files"):
            uses.enter_context(opened.descriptor("file-9"))


def replace_by(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Put something else in the place of a file, with its size and time."""

    def replace(path: Path) -> None:
        before = path.stat()
        make(path.with_name("new"))
        os.utime(path.with_name("new"), ns=(before.st_atime_ns, before.st_mtime_ns))
        path.with_name("new").replace(path)

    return replace


CHANGES: dict[str, Callable[[Path], object]] = {
    "replaced": replace_by(lambda path: path.write_text("elif-0")),
    "a FIFO": replace_by(os.mkfifo),
    "longer": lambda path: path.write_text("file-0, longer"),
    "of another time": lambda path: os.utime(path, ns=(0, 7)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_is_opened_again_is_the_same(folder: Path, change: str) -> None:
    files = Counted()
    opened = OpenFiles(files, folder.joinpath, limit=1)
    content(opened, files, "file-0")
    content(opened, files, "file-1")
    opened.check_unchanged()
    CHANGES[change](folder / "file-0")
    with pytest.raises(SourceChanged, match="file-0 has changed"):
        content(opened, files, "file-0")
    with pytest.raises(SourceChanged, match="file-0 has changed"):
        opened.check_unchanged()
    assert content(opened, files, "file-2") == "file-2"
    opened.close()
    assert not files.open


def test_a_file_that_has_gone(folder: Path) -> None:
    files = Counted()
    opened = OpenFiles(files, folder.joinpath, limit=1)
    content(opened, files, "file-0")
    content(opened, files, "file-1")
    (folder / "file-0").unlink()
    with pytest.raises(SourceChanged, match="file-0 has changed"):
        opened.check_unchanged()


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_is_watched_is_the_same(folder: Path, change: str) -> None:
    """When it is first opened; a FIFO in its place is not waited for."""
    files = Counted()
    opened = OpenFiles(files, folder.joinpath)
    opened.watch("file-0")
    CHANGES[change](folder / "file-0")
    with pytest.raises(SourceChanged, match="file-0 has changed since it was planned"):
        content(opened, files, "file-0")
    assert content(opened, files, "file-1") == "file-1"


class Forgetful(LinuxFiles):
    """A file system that gives a file another inode at each look, such as FAT under pressure."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    def stat(self, file: int | Path, *, follow: bool = True) -> os.stat_result:
        found = super().stat(file, follow=follow)
        self.looks += 1
        fields = [*found[:10]]
        fields[1] = 2**40 + self.looks
        names = ("st_mtime_ns", "st_ctime_ns", "st_atime_ns")
        return os.stat_result(fields, {name: getattr(found, name) for name in names})


def test_a_file_that_is_numbered_again(folder: Path) -> None:
    """It is the same one, opened again or for the first time; a replacement of it is not."""
    files = Forgetful()
    opened = OpenFiles(files, folder.joinpath, limit=1)
    for name in NAMES:
        opened.watch(name)
    for name in NAMES * 2:
        assert content(opened, files, name) == name
    opened.check_unchanged()
    for name in NAMES:
        opened.check_file(name)
    before = (folder / NAMES[0]).stat()
    (folder / "other").write_text(NAMES[0])
    os.utime(folder / "other", ns=(before.st_atime_ns, before.st_mtime_ns))
    (folder / "other").replace(folder / NAMES[0])
    with pytest.raises(SourceChanged, match=NAMES[0]):
        opened.check_unchanged()
    with pytest.raises(SourceChanged, match=NAMES[0]):
        content(opened, files, NAMES[0])

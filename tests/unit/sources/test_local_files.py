"""Files that are read where they are, and what is noticed when they change."""

import os
from pathlib import Path

import pytest

from streamconv.errors import BadCheckpoint, IOFailed, SourceChanged
from streamconv.sources.local_files import LocalFiles
from streamconv.system.linux_file_ops import LinuxFiles


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"0123456789")
    return tmp_path


def test_bytes_at_an_offset(folder: Path) -> None:
    """Fewer at the end of the file, none after it."""
    local = LocalFiles(folder, LinuxFiles())
    assert local.size("file") == 10
    assert local.bytes_at("file", 3, 4) == b"3456"
    assert local.bytes_at("file", 8, 4) == b"89"
    assert local.bytes_at("file", 12, 4) == b""
    buffer = bytearray(3)
    local.read_exact("file", 7, memoryview(buffer))
    assert buffer == b"789"
    with pytest.raises(SourceChanged, match="file has become shorter"):
        local.read_exact("file", 8, memoryview(buffer))


def test_a_file_is_opened_once(folder: Path) -> None:
    """Also if it has been replaced since: what was opened is read to its end."""
    local = LocalFiles(folder, LinuxFiles())
    local.bytes_at("file", 0, 1)
    (folder / "new").write_bytes(b"abcdefghij")
    (folder / "new").replace(folder / "file")
    assert local.bytes_at("file", 1, 2) == b"12"


@pytest.mark.parametrize("above", ["", "../here"])
def test_the_folder_stays_the_same_in_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, above: str
) -> None:
    for name in ("here", "there"):
        (tmp_path / name / "files").mkdir(parents=True)
        (tmp_path / name / "files" / "file").write_text(name)
    monkeypatch.chdir(tmp_path / "here")
    local = LocalFiles(Path(above, "files"), LinuxFiles())
    monkeypatch.chdir(tmp_path / "there")
    assert local.size("file") == 4
    assert local.bytes_at("file", 0, 9) == b"here"


def test_a_change_is_noticed(folder: Path) -> None:
    """Of the size, and of the content by the time."""
    for change in (b"longer than before", b"9876543210"):
        local = LocalFiles(folder, LinuxFiles())
        local.bytes_at("file", 0, 1)
        local.check_unchanged()
        (folder / "file").write_bytes(change)
        os.utime(folder / "file", ns=(0, 7))
        with pytest.raises(SourceChanged, match="file has changed while it was read"):
            local.check_unchanged()
        local.close()


def test_a_change_before_the_first_read(folder: Path) -> None:
    local = LocalFiles(folder, LinuxFiles())
    local.size("file")
    (folder / "file").write_bytes(b"short")
    with pytest.raises(SourceChanged, match="it had 10 bytes, it has 5"):
        local.bytes_at("file", 0, 1)


def test_a_check_of_its_own(folder: Path) -> None:
    seen: list[tuple[str, int]] = []
    local = LocalFiles(folder, LinuxFiles(), lambda name, fd, size: seen.append((name, size)))
    local.bytes_at("file", 0, 1)
    local.bytes_at("file", 1, 1)
    assert seen == [("file", 10)]


def test_files_that_cannot_be_read(folder: Path) -> None:
    local = LocalFiles(folder, LinuxFiles())
    with pytest.raises(BadCheckpoint, match="not the name of a file below"):
        local.size("../file")
    with pytest.raises(BadCheckpoint, match="cannot read none: it is missing from"):
        local.size("none")
    with pytest.raises(IOFailed, match="cannot read tensor w from none: No such file"):
        local.read("none", 0, memoryview(bytearray(1)), "w")


def test_closing_twice(folder: Path) -> None:
    local = LocalFiles(folder, LinuxFiles())
    local.bytes_at("file", 0, 1)
    local.close()
    local.close()

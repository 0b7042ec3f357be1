"""The contract of the file operations that write, which both classes of them keep."""

import os
import stat
import threading
from itertools import pairwise
from pathlib import Path

import pytest
from file_calls import ON_LINUX, PAGE, content, written
from hypothesis import given, settings
from hypothesis import strategies as st

from streamconv.system.file_ops import Files
from streamconv.system.linux_file_ops import LinuxFiles
from streamconv.system.writeback import Writeback

LINUX = pytest.param(LinuxFiles, marks=ON_LINUX)


@pytest.fixture(params=[Files, LINUX])
def files(request: pytest.FixtureRequest) -> Files:
    kind: type[Files] = request.param
    return kind()


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


def test_an_error_is_the_system_s_own(files: Files, tmp_path: Path) -> None:
    """OSError with its number. The callers word the message."""
    with pytest.raises(FileNotFoundError):
        files.create(tmp_path / "none" / "f", PAGE)

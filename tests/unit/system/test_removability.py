"""Why a path cannot be removed, by its status alone."""

import os
import stat
from pathlib import Path

import pytest

from streamconv.system import removability
from streamconv.system.removability import APPEND_ONLY, IMMUTABLE, obstacle

NOTHING: frozenset[Path] = frozenset()


def status_of(path: Path, **changed: int) -> os.stat_result:
    """The status of a path, with some fields of it replaced."""
    fields = list(path.lstat())
    for number, name in enumerate(("st_mode", "st_ino", "st_dev", "st_nlink", "st_uid")):
        fields[number] = changed.get(name, fields[number])
    return os.stat_result(fields)


def test_a_file_and_a_folder_of_this_user(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert obstacle(file, status_of(file), NOTHING) == ""
    assert obstacle(tmp_path, status_of(tmp_path), NOTHING) == ""


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (stat.S_IFLNK, "a link"),
        (stat.S_IFIFO, "neither a file nor a folder"),
        (stat.S_IFSOCK, "neither a file nor a folder"),
    ],
)
def test_other_kinds(tmp_path: Path, kind: int, reason: str) -> None:
    assert obstacle(tmp_path, status_of(tmp_path, st_mode=kind | 0o600), NOTHING) == reason


def test_a_file_of_another_user(tmp_path: Path) -> None:
    """Counts only if the owner does."""
    file = tmp_path / "file"
    file.touch()
    other = os.geteuid() + 1
    assert obstacle(file, status_of(file, st_uid=other), NOTHING) == f"owned by user {other}"
    assert obstacle(file, status_of(file, st_uid=other), NOTHING, any_owner=True) == ""


def test_a_mount_point(tmp_path: Path) -> None:
    mounted = frozenset({tmp_path})
    assert obstacle(tmp_path, status_of(tmp_path), mounted) == "a mount point"
    assert obstacle(tmp_path / "..", status_of(tmp_path), mounted) == ""


def test_a_folder_that_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert obstacle(tmp_path, status_of(tmp_path), NOTHING) == "a folder that is not writable"
    file = tmp_path / "file"
    file.touch()
    assert obstacle(file, status_of(file), NOTHING) == ""


@pytest.mark.parametrize("flag", [IMMUTABLE, APPEND_ONLY])
def test_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: int) -> None:
    """As the file system tells them; others do no harm."""
    file = tmp_path / "file"
    file.touch()
    answers = [(flag | 0x80000).to_bytes(8, "little"), (0x80000).to_bytes(8, "little")]
    monkeypatch.setattr(removability.fcntl, "ioctl", lambda *_: answers.pop(0))
    assert obstacle(file, status_of(file), NOTHING) == "immutable or append-only"
    assert obstacle(file, status_of(file), NOTHING) == ""

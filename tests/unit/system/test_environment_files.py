"""What would be waited for, or never end, is told apart from files and from what is not there."""

import os
from pathlib import Path

import pytest

from streamconv.errors import UsageError
from streamconv.system.environment_files import check_files_of, opens_at_once


def test_what_opens_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "broken").symlink_to("missing")
    sound = [str(tmp_path / name) for name in ("file", "link", "broken", ".", "missing")]
    assert all(map(opens_at_once, [*sound, os.devnull, "a" * 5000, "with\0null"]))
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "led").symlink_to("fifo")
    assert not any(map(opens_at_once, [str(tmp_path / "fifo"), str(tmp_path / "led"), "/dev/zero"]))


def test_a_variable_is_checked_if_it_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SETTINGS", raising=False)
    check_files_of("SETTINGS")
    for sound in ("", str(tmp_path / "missing"), os.devnull):
        monkeypatch.setenv("SETTINGS", sound)
        check_files_of("SETTINGS")
    monkeypatch.setenv("SETTINGS", "/dev/zero")
    with pytest.raises(UsageError, match="cannot use SETTINGS: /dev/zero is not a regular file"):
        check_files_of("OTHER", "SETTINGS")

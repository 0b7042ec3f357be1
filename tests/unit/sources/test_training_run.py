"""Which save of a training run is read."""

from pathlib import Path

import pytest

from streamconv.errors import BadCheckpoint
from streamconv.sources.training_run import find_dcp

TRACKER = "latest_checkpointed_iteration.txt"


def save_at(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / ".metadata").touch()
    return folder


def test_the_folder_of_a_save_is_found(tmp_path: Path) -> None:
    save = save_at(tmp_path / "save")
    (save / TRACKER).write_text("not looked at")
    assert find_dcp(str(save)) == save


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("release\n", "release"),
        ("7", "iter_0000007"),
        (" 0000007 ", "iter_0000007"),
        ("123456789", "iter_123456789"),
    ],
)
def test_the_tracker_names_the_last_save(tmp_path: Path, text: str, folder: str) -> None:
    save_at(tmp_path / "iter_0000001")
    save = save_at(tmp_path / folder)
    (tmp_path / TRACKER).write_text(text)
    assert find_dcp(str(tmp_path)) == save


@pytest.mark.parametrize("text", ["", "../save", "-7", "1e3", "RELEASE", "\u0661", "7 8"])
def test_a_tracker_that_names_no_save(tmp_path: Path, text: str) -> None:
    save_at(tmp_path / "save")
    (tmp_path / TRACKER).write_text(text)
    with pytest.raises(BadCheckpoint, match="neither `release` nor a number"):
        find_dcp(str(tmp_path))


def test_a_tracker_that_names_a_save_that_is_gone(tmp_path: Path) -> None:
    save_at(tmp_path / "iter_0000006")
    (tmp_path / TRACKER).write_text("7")
    with pytest.raises(BadCheckpoint, match=r"says 7, and iter_0000007 holds no \.metadata"):
        find_dcp(str(tmp_path))


def test_a_save_that_was_not_finished(tmp_path: Path) -> None:
    (tmp_path / "__0_0.distcp").touch()
    with pytest.raises(BadCheckpoint, match=r"files of a DCP and no \.metadata"):
        find_dcp(str(tmp_path))


def test_no_dcp(tmp_path: Path) -> None:
    """A folder without one, a file, and nothing."""
    (tmp_path / "model.safetensors").touch()
    for path in (tmp_path, tmp_path / "model.safetensors", tmp_path / "missing"):
        assert find_dcp(str(path)) is None

"""What is refused before anything is written: places, and disks with too little room."""

from pathlib import Path
from typing import Any

import pytest
from shard_plans import plan_of

from streamconv.errors import IOFailed, NoSpace, OutputExists
from streamconv.sinks import preflight
from streamconv.sinks.overlap import ReadPath, local_paths
from streamconv.sinks.preflight import check_location, check_room
from streamconv.system.file_ops import Files


def reads(location: str | Path) -> list[ReadPath]:
    """The paths of a source."""
    return [ReadPath("source", path) for path in local_paths(str(location))]


@pytest.mark.parametrize("target", [".", "source", "source/below", "link", "link/below"])
def test_target_and_source_may_not_overlap(tmp_path: Path, target: str) -> None:
    """Whichever holds the other one, through links too."""
    source = tmp_path / "source"
    source.mkdir()
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(OutputExists, match="overlap"):
        check_location(tmp_path / target, reads(source), Files())


def test_a_source_that_is_a_url_overlaps_nothing(tmp_path: Path) -> None:
    check_location(tmp_path / "out", reads("hf://org/model"), Files())
    check_location(tmp_path / "a" / "b" / "out", reads("hf://org/model"), Files())


def test_a_target_that_is_no_folder(tmp_path: Path) -> None:
    """A file, a link, and what is below a file, each in its own words."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(OutputExists, match="file: it is a file"):
        check_location(tmp_path / "file", (), Files())
    with pytest.raises(OutputExists, match="link: it is a link"):
        check_location(tmp_path / "link", (), Files())
    with pytest.raises(IOFailed, match="file is not a folder"):
        check_location(tmp_path / "file" / "out", (), Files())


def test_a_folder_that_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing could be created next to the target."""
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(IOFailed, match="is not writable"):
        check_location(tmp_path / "out", (), Files())


@pytest.mark.parametrize(
    ("limits", "left", "reclaimed", "refusal"),
    [
        ({"free_disk": 1010}, 1000, 0, None),
        ({"free_disk": 1009}, 1000, 0, r"1\.01 kB needed, 1\.01 kB free"),
        ({"free_disk": 9}, 1000, 1001, None),
        ({"free_disk": None}, 10**18, 0, None),
        ({"free_inodes": 17}, 0, 0, None),
        ({"free_inodes": 16}, 0, 0, "17 files needed, the file system has room for 16"),
        ({"file_size_limit": 1000}, 0, 0, None),
        ({"file_size_limit": 999}, 0, 0, "largest file has 1.00 kB, .* at most 999 B"),
    ],
)
def test_room_is_needed_for_bytes_and_files(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limits: dict[str, int | None],
    left: int,
    reclaimed: int,
    refusal: str | None,
) -> None:
    """A hundredth more than the planned bytes, sixteen more than the planned files."""
    for name in ("free_disk", "free_inodes"):
        monkeypatch.setattr(preflight, name, lambda folder, name=name: limits.get(name))
    monkeypatch.setattr(preflight, "file_size_limit", lambda: limits.get("file_size_limit"))
    arguments: Any = (plan_of([1000], tmp_path / "s"), left, tmp_path, reclaimed)
    if refusal is None:
        check_room(*arguments)
    else:
        with pytest.raises(NoSpace, match=refusal):
            check_room(*arguments)

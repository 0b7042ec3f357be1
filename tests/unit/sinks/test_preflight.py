"""What is refused before anything is written: places, and disks with too little room."""

import os
from pathlib import Path
from typing import Any

import pytest
from shard_plans import plan_of

from streamconv.errors import IOFailed, NoSpace, OutputExists
from streamconv.sinks import preflight
from streamconv.sinks.overlap import ReadPath
from streamconv.sinks.preflight import check_location, check_room
from streamconv.sinks.run_paths import RunPaths
from streamconv.system.file_ops import Files


def reads(path: Path) -> list[ReadPath]:
    """The paths of a source."""
    return [ReadPath("source", path)]


@pytest.mark.parametrize("target", [".", "source", "source/below", "link", "link/below"])
def test_target_and_source_may_not_overlap(tmp_path: Path, target: str) -> None:
    """Whichever holds the other one, through links too."""
    source = tmp_path / "source"
    source.mkdir()
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(OutputExists, match="overlap"):
        check_location(tmp_path / target, reads(source), Files())


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


def test_a_name_that_a_run_to_another_target_uses(tmp_path: Path) -> None:
    """That run would take what is there for its own, and remove or rename it."""
    paths = RunPaths(tmp_path / "out")
    for path in (paths.partial, paths.replaced, paths.lock(1), paths.moved(paths.request)):
        with pytest.raises(OutputExists, match=r"a conversion to out next to it uses that name"):
            check_location(path, (), Files())
    check_location(tmp_path / "out.streamconv-partial" / "out", (), Files())


def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    """The hint names a folder if the link has one at its end."""
    (tmp_path / "dangling").symlink_to("missing")
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OutputExists, match="dangling: it is a link") as caught:
        check_location(tmp_path / "dangling", (), Files())
    assert caught.value.hint == f"name the folder: {tmp_path / 'missing'}"
    with pytest.raises(OutputExists, match="circle: it is a link") as caught:
        check_location(tmp_path / "circle", (), Files())
    assert caught.value.hint == "remove it, or name a folder"
    for link in ("dangling", "circle"):
        for target in (tmp_path / link / "out", tmp_path / link / "a" / "out"):
            with pytest.raises(IOFailed, match=f"{link} is a link that leads nowhere") as refused:
                check_location(target, (), Files())
            assert refused.value.hint


@pytest.mark.parametrize("letter", ["a", "\u00e9", "\udcff"])
@pytest.mark.parametrize("parts", [1, 99999])
def test_the_names_of_a_run_fit_the_file_system(tmp_path: Path, letter: str, parts: int) -> None:
    """All that it will make next to the target, counted in bytes; the hint is the longest name."""
    size = len(os.fsencode(letter))
    for length in range(200 // size, 260 // size):
        target = tmp_path / (letter * length)
        paths = RunPaths(target)
        made = [paths.moved(path) for path in (paths.journal(parts), paths.request, paths.listing)]
        if all(can_be_made(path) for path in (*made, paths.lock(parts), paths.replaced)):
            check_location(target, (), Files(), parts)
            fits = length * size
        else:
            with pytest.raises(IOFailed, match="its name is too long") as caught:
                check_location(target, (), Files(), parts)
            assert fits <= int(caught.value.hint.split()[6]) < fits + size


def can_be_made(path: Path) -> bool:
    try:
        path.touch()
    except OSError:
        return False
    path.unlink()
    return True


def test_a_folder_that_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing could be created next to the target."""
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(IOFailed, match="is not writable"):
        check_location(tmp_path / "out", (), Files())


def test_a_folder_in_which_nothing_can_be_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files can be made in an append-only folder, but the result would stay in its partial one."""
    monkeypatch.setattr(preflight, "has_protecting_flag", lambda path: path == tmp_path)
    with pytest.raises(IOFailed, match="immutable or append-only") as caught:
        check_location(tmp_path / "missing" / "out", (), Files())
    assert caught.value.hint.startswith("run `chattr")


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
        ({"largest_file": 1000}, 0, 0, None),
        ({"largest_file": 999}, 0, 0, "1.00 kB, but its file system takes at most 999 B in one"),
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
    for name in ("free_disk", "free_inodes", "largest_file"):
        monkeypatch.setattr(preflight, name, lambda folder, name=name: limits.get(name))
    monkeypatch.setattr(preflight, "file_size_limit", lambda: limits.get("file_size_limit"))
    arguments: Any = (plan_of([1000], tmp_path / "s"), left, tmp_path, reclaimed)
    if refusal is None:
        check_room(*arguments)
    else:
        with pytest.raises(NoSpace, match=refusal):
            check_room(*arguments)

"""What is in a folder, what of it can be removed, and how a message names the rest."""

import os
import subprocess
from pathlib import Path

import pytest

from streamconv.errors import OutputExists
from streamconv.sinks.folder_contents import (
    FolderContents,
    Foreign,
    list_contents,
    remove_contents,
)
from streamconv.sinks.known_paths import AllPaths
from streamconv.system.file_ops import Files


def listed(folder: Path, *, any_owner: bool = False) -> FolderContents:
    return list_contents(folder, AllPaths(), Files(), any_owner=any_owner)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out" / "sub").mkdir(parents=True)
    (tmp_path / "out" / "a").write_text("12345")
    (tmp_path / "out" / "sub" / "b").write_text("1")
    return tmp_path / "out"


def test_everything_is_listed(folder: Path) -> None:
    """With sizes, a folder before what is in it; nothing if there is no folder."""
    found = [(entry.name, entry.is_folder, entry.size) for entry in listed(folder).entries]
    assert found == [("a", False, 5), ("sub", True, 0), ("sub/b", False, 1)]
    assert listed(folder).foreign == ()
    assert listed(folder / "missing").entries == ()
    (folder.parent / "link").symlink_to(folder)
    assert listed(folder.parent / "link").entries == ()


def test_links_and_special_files(folder: Path) -> None:
    """They are nobody's checkpoint, wherever they lead; links are not followed."""
    (folder / "sub" / "link").symlink_to(folder.parent)
    (folder / "dangling").symlink_to("nowhere")
    os.mkfifo(folder / "fifo")
    assert listed(folder).foreign == (
        Foreign("dangling", "a link"),
        Foreign("fifo", "neither a file nor a folder"),
        Foreign("sub/link", "a link"),
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_others(folder: Path) -> None:
    """Unless the owner does not count."""
    os.chown(folder / "sub" / "b", 12345, -1)
    assert listed(folder).foreign == (Foreign("sub/b", "owned by user 12345"),)
    assert listed(folder, any_owner=True).foreign == ()
    os.chown(folder, 12345, -1)
    assert listed(folder).foreign == (Foreign("", "owned by user 12345"),)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take the flag away again")
def test_an_immutable_file(folder: Path) -> None:
    if subprocess.run(["chattr", "+i", folder / "a"], check=False, capture_output=True).returncode:
        pytest.skip("the file system has no such flag")
    try:
        assert listed(folder).foreign == (Foreign("a", "immutable or append-only"),)
    finally:
        subprocess.run(["chattr", "-i", folder / "a"], check=True)


def test_a_folder_that_is_not_writable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in it could not be removed."""
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "sub")
    assert listed(folder).foreign == (Foreign("sub/", "a folder that is not writable"),)


def test_mount_points(folder: Path) -> None:
    """A folder, and a file."""
    (folder.parent / "elsewhere").mkdir()
    (folder.parent / "file").touch()
    pairs = [(folder.parent / "elsewhere", folder / "sub"), (folder.parent / "file", folder / "a")]
    mounted = []
    try:
        for source, target in pairs:
            words = ["mount", "--bind", str(source), str(target)]
            if subprocess.run(words, check=False, capture_output=True).returncode:
                pytest.skip("mounting is not permitted here")
            mounted.append(target)
        assert listed(folder).foreign == (
            Foreign("a", "a mount point"),
            Foreign("sub/", "a mount point"),
        )
    finally:
        for target in mounted:
            subprocess.run(["umount", str(target)], check=True)


def test_a_message_names_some_paths_and_counts_all(folder: Path) -> None:
    """With full paths; nothing that a terminal would obey."""
    names = [*(f"{number:03}" for number in range(200)), "\x1b[31m"]
    contents = FolderContents(folder, (), tuple(Foreign(name, "unknown") for name in names))
    with pytest.raises(OutputExists, match=r"^cannot x: 201 paths: ") as caught:
        contents.require_nothing_foreign("cannot x", "do y")
    assert f"{folder}/000 (unknown), " in caught.value.message
    assert caught.value.message.endswith(", and 196 more")
    assert caught.value.hint == "do y"
    FolderContents(folder).require_nothing_foreign("cannot x", "do y")


def test_removing(folder: Path) -> None:
    """In order, and all of it."""
    order: list[str] = []

    class Watching(Files):
        def unlink(self, path: Path) -> None:
            order.append(path.name)
            super().unlink(path)

    assert remove_contents(listed(folder), Watching(), lambda name: name == "a")
    assert order == ["b", "a"]
    assert not folder.exists()


def test_removing_what_has_changed(folder: Path) -> None:
    """A file that was written to, another one of its name, and a new one are kept."""
    before = listed(folder)
    (folder / "a").write_text("other")
    os.utime(folder / "a", ns=(1, 1))
    (folder / "sub" / "new").touch()
    assert not remove_contents(before, Files(), lambda name: False)
    assert [entry.name for entry in listed(folder).entries] == ["a", "sub", "sub/new"]
    changed = before.differences(listed(folder))
    assert changed.foreign == (Foreign("a", "changed meanwhile"), Foreign("sub/new", "new"))

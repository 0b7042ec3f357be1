"""Names that are ours are reached without following a link; all other paths as ever."""

from pathlib import Path

import pytest

from streamconv.system.file_ops import Files
from streamconv.system.guarded_paths import Guard
from streamconv.system.planted import PlantedFile

PREFIX = "out.streamconv-"


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/a/out.streamconv-lock-1", ["out.streamconv-lock-1"]),
        ("/a/out.streamconv-partial/b/c", ["out.streamconv-partial", "b", "c"]),
        ("/a/out", None),
        ("/a", None),
        ("/a/b/out.streamconv-lock-1", None),
        ("/out.streamconv-lock-1", None),
        ("/ab/out.streamconv-lock-1", None),
    ],
)
def test_which_paths_are_guarded(path: str, names: list[str] | None) -> None:
    """Those whose name right below the folder has the prefix, and all below them."""
    guard = Guard()
    guard.add(Path("/a"), PREFIX)
    found = guard.split(Path(path))
    assert (found and list(found[1])) == names
    assert found is None or found[0] == Path("/a")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files()
    files.guard(tmp_path, PREFIX)
    return files


def test_a_link_on_the_way_is_refused(files: Files, tmp_path: Path) -> None:
    """Whatever is done with the path; nothing happens where the link leads to."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_bytes(b"precious")
    (tmp_path / f"{PREFIX}partial").symlink_to(elsewhere)
    path = tmp_path / f"{PREFIX}partial" / "file"
    for use in (
        files.open_read,
        lambda p: files.read_file(p, 9),
        files.unlink,
        lambda p: files.write_file(p.with_name("new"), b"x"),
        lambda p: files.rename(p, tmp_path / "stolen"),
        lambda p: files.make_folder(p.with_name("folder")),
        lambda p: files.set_mode(p, 0o600),
    ):
        with pytest.raises(PlantedFile, match="symbolic link"):
            use(path)
    assert [(p.name, p.read_bytes()) for p in elsewhere.iterdir()] == [("file", b"precious")]


def test_other_paths_follow_links(files: Files, tmp_path: Path) -> None:
    """A user may have reasons for a link anywhere else."""
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert files.read_file(tmp_path / "link", 9) == b"text"
    assert files.stat(tmp_path / "link").st_size == 4


def test_an_error_names_the_whole_path(files: Files, tmp_path: Path) -> None:
    """Not the last name alone, which is what the system is asked for."""
    path = tmp_path / f"{PREFIX}partial" / "missing"
    path.parent.mkdir()
    with pytest.raises(FileNotFoundError) as caught:
        files.open_read(path)
    assert caught.value.filename == str(path)


def test_no_descriptor_is_left_open(files: Files, tmp_path: Path) -> None:
    path = tmp_path / f"{PREFIX}partial" / "a" / "b"
    path.parent.mkdir(parents=True)
    path.touch()
    before = len(list(Path("/proc/self/fd").iterdir()))
    files.stat(path)
    files.read_file(path, 9)
    with pytest.raises(PlantedFile):
        files.check_own(path, is_folder=True)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_is_not_there_passes(files: Files, tmp_path: Path) -> None:
    """A check before something is made there."""
    files.check_own(tmp_path / f"{PREFIX}lock-1", is_folder=False)


@pytest.mark.parametrize("name", ["folder", f"{PREFIX}partial"])
def test_what_is_renamed_while_a_folder_is_listed(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It is no longer in the folder, as a draft of another rank's journal; no error."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "kept").touch()
    monkeypatch.setattr(Files, "names", lambda *_: ["gone", "kept"])
    assert [name for name, _ in files.scan(folder)] == ["kept"]

"""Paths that lead to the same file or folder, and all that they lead through."""

from pathlib import Path

import pytest

from streamconv.system.identity import identities_on_the_way, identity_of


def of(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def test_the_identity_of_a_path(tmp_path: Path) -> None:
    """The same for a link and a hard link; none if nothing can be there."""
    (tmp_path / "a").touch()
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "hard").hardlink_to(tmp_path / "a")
    assert identity_of(tmp_path / "a") == identity_of(tmp_path / "link") == of(tmp_path / "hard")
    for missing in ("b", "a/b", "x" * 300, "null\0"):
        assert identity_of(tmp_path / missing) is None


@pytest.mark.parametrize(
    "path",
    ["sub/folder", "link/folder", "absolute", "sub/../sub/folder", "link/../sub/folder", "chain"],
)
def test_the_way_to_a_path(tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every folder above its real place, and the links that lead there; from anywhere."""
    (tmp_path / "sub" / "folder").mkdir(parents=True)
    (tmp_path / "link").symlink_to("sub")
    (tmp_path / "absolute").symlink_to(tmp_path / "sub" / "folder")
    (tmp_path / "chain").symlink_to("link/folder")
    monkeypatch.chdir(tmp_path)
    for start in (tmp_path / path, Path(path)):
        found = identities_on_the_way(start)
        assert {of(tmp_path / "sub" / "folder"), of(tmp_path / "sub"), of(tmp_path)} <= set(found)
        assert of(Path("/")) in found
        first = tmp_path / Path(path).parts[0]
        assert of(first) in found


def test_the_parent_of_a_link_s_target(tmp_path: Path) -> None:
    """`link/..` is above the target of the link, not above the link."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "x" / "y").mkdir(parents=True)
    (tmp_path / "a" / "link").symlink_to(tmp_path / "x" / "y")
    (tmp_path / "x" / "z").touch()
    assert of(tmp_path / "x" / "z") in identities_on_the_way(tmp_path / "a" / "link" / ".." / "z")


def test_a_way_that_does_not_end(tmp_path: Path) -> None:
    """A missing name ends it; links in a circle do."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert {of(tmp_path / "a"), of(tmp_path / "b")} <= set(identities_on_the_way(tmp_path / "a"))
    assert of(tmp_path) in identities_on_the_way(tmp_path / "missing" / "below")
    assert identities_on_the_way(tmp_path / "missing") == identities_on_the_way(tmp_path)

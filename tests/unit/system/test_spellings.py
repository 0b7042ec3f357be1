"""Two spellings of one entry of a folder, where each has an inode of its own."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamconv.system.identity import identities_on_the_way
from streamconv.system.spellings import listed_alike, spelled_twice

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Leave names out of every listing, as a file system does with other spellings of a name."""
    true = Path.iterdir

    def hide(*hidden: str) -> None:
        def listed(folder: Path) -> Iterator[Path]:
            return (path for path in true(folder) if path.name not in hidden)

        monkeypatch.setattr(Path, "iterdir", listed)

    return hide


@pytest.mark.parametrize(
    ("listed", "spelled"),
    [("Model", "model"), (COMPOSED, DECOMPOSED), (DECOMPOSED.upper(), COMPOSED)],
)
def test_spellings_of_one_name(
    listed: str, spelled: str, tmp_path: Path, hide: Callable[..., None]
) -> None:
    """Found as long as the folder lists one of them alone; at any depth, and below a link."""
    for name in (listed, spelled):
        (tmp_path / name / "deep").mkdir(parents=True, exist_ok=True)
    (tmp_path / "link").symlink_to(listed)
    other = identities_on_the_way(tmp_path / spelled / "deep")
    for path in (tmp_path / listed / "deep", tmp_path / "link"):
        way = identities_on_the_way(path)
        assert spelled_twice(way, other) is None
        hide(spelled)
        assert spelled_twice(way, other) == (tmp_path / listed, tmp_path / spelled)
        assert spelled_twice(other, way) == (tmp_path / spelled, tmp_path / listed)
        hide()
    assert listed_alike(spelled, ["other", listed]) == listed
    assert listed_alike(spelled, ["other"]) is None


def test_a_short_name(tmp_path: Path, hide: Callable[..., None]) -> None:
    """It is spelled otherwise, and shows the same time, size and owner."""
    long, short = tmp_path / "some model", tmp_path / "SOMEMO~1"
    long.touch()
    shutil.copy(long, short)
    hide(short.name)
    ways = identities_on_the_way(long), identities_on_the_way(short)
    assert spelled_twice(*ways) is None  # the times of change differ
    facts = long.lstat()
    fields = [*facts[:10]]
    fields[1] += 1  # the inode
    times = {name: getattr(facts, name) for name in dir(facts) if name.startswith("st_")}
    same = os.stat_result(fields, times)
    true = Path.lstat
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "lstat", lambda path: same if path == short else true(path))
        assert spelled_twice(*ways) == (long, short)


def test_a_name_that_is_hidden(tmp_path: Path, hide: Callable[..., None]) -> None:
    """A folder that is not listed, such as that of snapshots, is no spelling of another one."""
    (tmp_path / ".zfs" / "model").mkdir(parents=True)
    (tmp_path / "model").mkdir()
    os.utime(tmp_path / "model", (0, 0))
    hide(".zfs")
    ways = (identities_on_the_way(tmp_path / name) for name in (".zfs/model", "model"))
    assert spelled_twice(*ways) is None


def test_a_folder_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the names decide."""
    for name in ("Model", "model", "other"):
        (tmp_path / name).mkdir(exist_ok=True)

    def refuse(_: Path) -> Iterator[Path]:
        raise PermissionError

    monkeypatch.setattr(Path, "iterdir", refuse)
    ways = {name: identities_on_the_way(tmp_path / name) for name in ("Model", "model", "other")}
    assert spelled_twice(ways["Model"], ways["model"]) is not None
    assert spelled_twice(ways["Model"], ways["other"]) is None

"""Whose file is accepted under a name of ours, as a table over owners and modes."""

import os
import stat
from pathlib import Path

import pytest

from streamconv.system.planted import PlantedFile, check_own

US, ALICE, BOB, ROOT = 1000, 1001, 1002, 0
PATH = Path("out.streamconv-lock-1")


def status(mode: int, user: int, links: int = 1) -> os.stat_result:
    return os.stat_result((mode, 1, 1, links, user, 4000, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("owner", "holder", "mode", "is_accepted"),
    [
        (US, BOB, 0o777, True),
        (ALICE, ALICE, 0o777, True),
        (ALICE, ROOT, 0o1777, True),
        (ALICE, BOB, 0o775, False),
        (ALICE, US, 0o775, True),
        (ALICE, US, 0o777, False),
        (ROOT, BOB, 0o777, False),
    ],
)
def test_the_owner(
    monkeypatch: pytest.MonkeyPatch, owner: int, holder: int, mode: int, is_accepted: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: US)
    found, folder = status(stat.S_IFREG | 0o644, owner), status(stat.S_IFDIR | mode, holder)
    if is_accepted:
        check_own(PATH, found, folder, is_folder=False)
    else:
        with pytest.raises(PlantedFile, match=f"belongs to user {owner}"):
            check_own(PATH, found, folder, is_folder=False)


def test_the_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second name is somebody's; a folder has as many as it has folders."""
    monkeypatch.setattr(os, "geteuid", lambda: US)
    folder = status(stat.S_IFDIR | 0o755, US, links=9)
    check_own(PATH, folder, folder)
    with pytest.raises(PlantedFile, match="2 hard links"):
        check_own(PATH, status(stat.S_IFREG | 0o644, US, links=2), folder)

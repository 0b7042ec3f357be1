"""Absolute paths, compared with where the system goes."""

from pathlib import Path

import pytest

from streamconv.system.absolute_paths import absolute_path


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("link/../a", "x/a"),
        ("link/../../a", "a"),
        ("x/y/../a", "x/a"),
        ("x/../link/z", "link/z"),
        ("link/z", "link/z"),
        ("./x//y/.", "x/y"),
        ("link/..", "x"),
        (".", "."),
        ("missing/../a", "a"),
        ("missing/a", "missing/a"),
        ("circle/../a", "a"),
    ],
)
def test_a_path_leads_where_the_system_goes(
    tmp_path: Path, path: str, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x" / "y" / "z").mkdir(parents=True)
    (tmp_path / "x" / "a").mkdir()
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("x/y")
    (tmp_path / "circle").symlink_to("circle")
    monkeypatch.chdir(tmp_path)
    for start in (path, tmp_path / path):
        found = absolute_path(start)
        assert found == tmp_path / known
        if Path(start).exists():
            assert found.samefile(start)

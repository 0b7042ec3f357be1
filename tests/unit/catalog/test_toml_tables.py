"""Files of tables: those of the package, and a user's, which may be anything."""

from pathlib import Path

import pytest

from streamconv.catalog.toml_tables import USER_TABLES, read_table, read_user_tables
from streamconv.errors import UsageError


def test_tables_of_the_package() -> None:
    assert {"layouts", "namings", "weights"} <= read_table("layouts.toml").keys()
    assert "model_types" in next(iter(read_table("families.toml").values()))


def test_tables_of_a_user(tmp_path: Path) -> None:
    """Those that the file leaves out are empty, and others are ignored."""
    path = tmp_path / "mine.toml"
    path.write_text('[layouts.mine]\nused_by = "me"\n[other]\nx = 1\n')
    tables = read_user_tables(path)
    assert tables == {
        **{table: {} for table in USER_TABLES},
        "layouts": {"mine": {"used_by": "me"}},
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"layouts = 3", "cannot read layouts of .*mine.toml: it has to be a table"),
        (b"[families]\nx = 3", r"cannot read families\.x of .*mine.toml: it has to be a table"),
        (b"[[namings]]\n", "cannot read namings of .*mine.toml: it has to be a table"),
        (b"[layouts", "cannot read the tables of .*mine.toml: "),
        (b"\xff", "cannot read the tables of .*mine.toml: "),
    ],
)
def test_a_file_that_is_no_table(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_user_tables(tmp_path / "mine.toml")


@pytest.mark.parametrize("name", ["none.toml", "."])
def test_a_file_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the tables of"):
        read_user_tables(tmp_path / name)

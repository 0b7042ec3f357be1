"""Files of tables: those of the package, and a user's, which may be anything."""

import os
from pathlib import Path

import pytest

from streamconv.catalog.toml_tables import (
    USER_TABLES,
    parse_row,
    read_row_names,
    read_row_texts,
    read_table,
    read_user_tables,
)
from streamconv.errors import UsageError


def test_tables_of_the_package() -> None:
    assert {"layouts", "namings", "weights"} <= read_table("layouts.toml").keys()
    assert "model_types" in next(iter(read_table("families.toml").values()))


def test_rows_one_by_one() -> None:
    """Together they are what tomllib makes of the whole file."""
    texts = read_row_texts("families.toml")
    assert {name: parse_row(name, text) for name, text in texts.items()} == read_table(
        "families.toml"
    )
    assert list(texts) == list(read_table("families.toml"))
    tables = read_table("quantization.toml")
    for table in ("formats", "named", "encodings"):
        assert list(read_row_names("quantization.toml", table)) == list(tables[table])


def test_tables_of_a_user(tmp_path: Path) -> None:
    """Those that the file leaves out are empty, and others are refused."""
    path = tmp_path / "mine.toml"
    path.write_text('[layouts.mine]\ngate_up = "a : e"\ndown = "b : e"\n')
    tables = read_user_tables(path)
    assert tables == {
        **{table: {} for table in USER_TABLES},
        "layouts": {"mine": {"gate_up": "a : e", "down": "b : e"}},
    }
    path.write_text("[other]\nx = 1\n")
    with pytest.raises(UsageError, match=r"cannot read other of .*there is no such table"):
        read_user_tables(path)


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


@pytest.mark.parametrize("name", ["none.toml", ".", "a\0b"])
def test_a_file_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the tables of"):
        read_user_tables(tmp_path / name)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("place", ["/dev/zero", "/dev/null", "FIFO"])
def test_what_is_no_regular_file_is_not_opened(place: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    os.mkfifo(path) if place == "FIFO" else path.symlink_to(place)
    with pytest.raises(UsageError, match="it is not a regular file"):
        read_user_tables(path)


DEEP = 100_000


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"a = {'[' * DEEP}", "nested too deeply"),
        (f"a = {'[' * 900}{']' * 900}", "nested too deeply"),
        ("a = " + "{a = " * DEEP, "nested too deeply"),
        (f"{'a.' * DEEP}a = 1", "more than 16 dots"),
        (f"[{'a.' * DEEP}a]", "more than 16 dots"),
        ("[families." + '"b" . ' * DEEP + "a]", "more than 16 dots"),
        ("a = {b = 1, " + "'x'." * DEEP + "a = 1}", "more than 16 dots"),
        (f"a = {'9' * 5000}", "Exceeds the limit"),
        ("a = 1\n" * DEEP, "Cannot overwrite a value"),
        ("#" * 2_000_000, "more than 1,000,000 bytes"),
        ("".join(f"[weights.w{n}]\npart='x'\n" for n in range(501)), "have over 500 rows"),
    ],
    ids=lambda text: text[:20],
)
def test_a_file_that_would_take_long(text: str, message: str, tmp_path: Path) -> None:
    """Or that would end in an error of the interpreter's."""
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_user_tables(tmp_path / "mine.toml")
    assert len(caught.value.message) < 1000


def test_a_text_with_dots_is_no_key(tmp_path: Path) -> None:
    """Names of tensors have dots, and several may be in a line."""
    names = ", ".join(f'"model.layers.{n}.mlp.experts.gate.{n}.x"' for n in range(30))
    (tmp_path / "mine.toml").write_text(
        f"[families.x]\nmodel_types = [{names}]\nstacks = {{}}\n# {'a.' * 10}\n"
    )
    assert len(read_user_tables(tmp_path / "mine.toml")["families"]["x"]["model_types"]) == 30

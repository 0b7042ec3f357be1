"""The fields of a user's rows: whatever one of them is, it is read, or refused by its name."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from folders import qwen_tensors, two_shards, write_checkpoint

import streamconv
from streamconv.catalog.catalog import load_catalog
from streamconv.catalog.row_fields import ROWS, check_rows
from streamconv.catalog.toml_tables import read_table
from streamconv.errors import PlanRefused, StreamconvError, UsageError

SIDES = {"hub_name": "{q}_c : c o k", "form_name": "conv : (q c) o k"}
TABLES: dict[str, Any] = {
    "namings": {"mine": {"auto_detect": True, "p": ["g", "u"], "d": ["dn"]}},
    "layouts": {
        "inner": {
            "used_by": "nobody",
            "gate_up": "experts.{p}_all : h e i",
            "down": "experts.{d}_all : i e h",
        }
    },
    "families": {
        "mine": {
            "model_types": ["my_moe"],
            "merge": "transformers",
            "naming": "mine",
            "transformers_model_type": "x",
            "without": {"mindspeed": "why"},
            "stacks": {"model.layers.*.mlp.": ""},
            "aliases": [{"hub_name": "d.*", "form_name": "e.*"}],
            "hub": {"layouts": {"*": ["per-expert", "fused"]}},
            "transformers": {
                "layouts": {"*": "inner"},
                "renames": [{"hub_name": "a.*", "form_name": "b.*", "unless": ["c."]}],
                "groups": [
                    {"where": "x.", "q": ["q", "k"], "sizes": {"n": 2, "m": "a.b"}, **SIDES},
                    {"where": "", "q": ["q", "k"], "sizes": {"n": ["a", "b"]}, "parts": [SIDES]},
                ],
            },
        }
    },
}
"""Every field that there is."""
VALUES: dict[str, Any] = {
    "number": 3,
    "negative": -1,
    "fraction": 1.5,
    "flag": True,
    "text": "x",
    "empty": "",
    "NUL": "\0",
    "escape": "\x1b[31m",
    "star": "*",
    "long text": "x" * 100_000,
    "no list": [],
    "numbers": [1],
    "texts": ["x"],
    "twice": ["x", "x"],
    "lists": [[]],
    "table": {},
    "table of numbers": {"a": 1},
    "table of texts": {"a": "b"},
    "tables": [{}],
}

Path_ = tuple[str | int, ...]


def places(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """The path of every value below."""
    if not isinstance(value, dict | list):
        return
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        yield from places(inner, (*path, key))


def changed(path: Path_, value: Any) -> dict[str, Any]:
    tables = copy.deepcopy(TABLES)
    at: Any = tables
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return tables


def toml(value: Any) -> str:
    """A value as TOML, in which a table in a line has = for the colon of JSON."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(k)} = {toml(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value)


def write(tables: dict[str, Any], folder: Path) -> Path:
    path = folder / "mine.toml"
    path.write_text("\n".join(f"{name} = {toml(rows)}" for name, rows in tables.items()))
    return path


def test_rows_of_the_package_are_of_their_kinds() -> None:
    shipped = {**read_table("layouts.toml"), "families": read_table("families.toml")}
    for table in ROWS:
        check_rows(table, shipped[table], "shipped")


def test_every_field_that_there_is_is_read(tmp_path: Path) -> None:
    load_catalog(write(TABLES, tmp_path))


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_field_of_another_kind(
    value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every place; what is accepted can be used, or is refused in words as well."""
    config = {"model_type": "my_moe", "num_experts": 3}
    source = write_checkpoint(tmp_path / "src", two_shards(qwen_tensors()), config)
    refused = 0
    for path in places(TABLES):
        file = write(changed(path, value), tmp_path)
        try:
            known = load_catalog(file)
            monkeypatch.setattr(
                "streamconv.catalog.catalog.load_catalog", lambda path, known=known: known
            )
            streamconv.inspect(source, family=file)
            streamconv.plan(source, family=file)
        except StreamconvError as error:
            assert error.message.isprintable(), path
            assert len(error.message) < 1300, path
            refused += isinstance(error, UsageError)
    assert refused > 20


def test_a_field_that_is_not_known_or_missing(tmp_path: Path) -> None:
    """A field that is spelled wrongly is not passed over."""
    for path in (
        ("families", "mine", "rename"),
        ("namings", "mine", "e"),
        ("families", "mine", ""),
    ):
        with pytest.raises(UsageError, match=r"cannot read .*: there is no such field"):
            load_catalog(write(changed(path, ["x"]), tmp_path))
    for table, row, field in (("namings", "mine", "p"), ("families", "mine", "stacks")):
        tables = changed((table, row, "x"), 1)
        del tables[table][row]["x"], tables[table][row][field]
        with pytest.raises(
            UsageError, match=f"cannot read {table}.{row}.{field} .*: it is missing"
        ):
            load_catalog(write(tables, tmp_path))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("families", "mine", "merge"), "nowhere", "no layout called 'nowhere'"),
        (("families", "mine", "naming"), "nobody", "no naming called 'nobody'"),
        (("families", "mine", "transformers", "groups"), [{"where": "x."}], "no names in both"),
        (("families", "mine", "transformers", "groups", 1, "parts"), [], "no names in both"),
    ],
)
def test_a_row_that_names_what_is_not_there(
    path: Path_, value: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        load_catalog(write(changed(path, value), tmp_path))


def test_a_family_without_anything_to_merge_to(tmp_path: Path) -> None:
    tables = copy.deepcopy(TABLES)
    del tables["families"]["mine"]["merge"], tables["families"]["mine"]["transformers"]
    with pytest.raises(UsageError, match="neither merge, nor a form to merge to"):
        load_catalog(write(tables, tmp_path))


@pytest.mark.parametrize("names", [["one"], ["one", "two", "three"]])
def test_a_naming_with_other_projections_than_the_tensors(names: list[str], tmp_path: Path) -> None:
    """None of them would get a name, or one of them that of another."""
    source = write_checkpoint(
        tmp_path / "src", two_shards(qwen_tensors()), {"model_type": "my_moe", "num_experts": 3}
    )
    tables = changed(("namings", "mine", "p"), names)
    tables["families"]["mine"]["transformers"] = {"layouts": {"*": "stacked"}}
    with pytest.raises(PlanRefused, match=f"has 2 projections .* 'mine' has {len(names)}"):
        streamconv.plan(source, to="transformers", family=write(tables, tmp_path))

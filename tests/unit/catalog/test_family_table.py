"""Families are read when they are asked for, and those of the user win."""

from collections.abc import Mapping
from typing import Any

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.families import Family, read_family
from streamconv.catalog.family_table import FamilyTable
from streamconv.catalog.toml_tables import read_row_texts, read_table

CATALOG = default_catalog()
TEXTS = read_row_texts("families.toml")
ROWS = read_table("families.toml")


class Reader:
    """Reads families, and remembers their names."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str, row: Mapping[str, Any]) -> Family:
        self.names.append(name)
        return read_family(name, row, CATALOG.layouts, CATALOG.namings)


def test_one_row_is_read_for_a_model_type() -> None:
    """Once, and the family is that of the whole table."""
    read = Reader()
    table = FamilyTable({}, TEXTS, read)
    for name, row in ROWS.items():
        for model_type in row["model_types"]:
            family = table.with_model_type(model_type)
            assert family is table[name]
            assert family.model_types == tuple(row["model_types"])
        assert read.names.count(name) == 1
    assert len(read.names) == len(ROWS) == len(table)


def test_no_row_has_it() -> None:
    """Not even one that mentions it as something else."""
    table = FamilyTable({}, TEXTS, Reader())
    for model_type in ("fused", "no_such", "", None, ["mixtral"], 3):
        assert table.with_model_type(model_type) is None


def test_families_of_the_user_win() -> None:
    """Over shipped ones of the same name or the same model type."""
    mine = Reader()("mine", {**ROWS["mixtral"], "merge": "stacked"})
    replaced = Reader()("qwen-moe", {**ROWS["qwen-moe"], "model_types": ["other"]})
    table = FamilyTable({"mine": mine, "qwen-moe": replaced}, TEXTS, Reader())
    assert list(table) == ["mine", "qwen-moe", *(name for name in TEXTS if name != "qwen-moe")]
    assert table.with_model_type("mixtral") is mine
    assert table.with_model_type("other") is table["qwen-moe"] is replaced
    assert table.with_model_type("qwen3_moe") is None

"""Reads the files of tables: those of `data/`, and a user's file like them."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamconv.errors import UsageError

Rows = dict[str, Mapping[str, Any]]
"""The rows of a table by their names."""

USER_TABLES = ("namings", "layouts", "families")
"""The tables that a user's file may add to."""


def read_table(name: str) -> dict[str, Any]:
    """Read a file of `data/`."""
    from importlib import resources

    text = resources.files("streamconv.catalog").joinpath("data", name).read_text(encoding="utf-8")
    return tomllib.loads(text)


def read_user_tables(path: Path) -> dict[str, Rows]:
    """Read the tables of a user's file; those that it leaves out are empty.

    Raises UsageError if the file cannot be read, is not TOML, or has something else in the place
    of a table.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read the tables of {path}: {error}") from None
    found: dict[str, Rows] = {}
    for name in USER_TABLES:
        rows = tables.get(name, {})
        if not isinstance(rows, dict):
            raise UsageError(f"cannot read {name} of {path}: it has to be a table")
        for row, fields in rows.items():
            if not isinstance(fields, dict):
                raise UsageError(f"cannot read {name}.{row} of {path}: it has to be a table")
        found[name] = rows
    return found

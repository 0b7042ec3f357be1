"""Reads the files of tables: those of `data/`, and a user's file like them."""

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamconv.catalog.row_fields import COMPARE, check_rows
from streamconv.errors import UsageError, quoted

Rows = dict[str, Mapping[str, Any]]
"""The rows of a table by their names."""

_DATA = Path(__file__).with_name("data")

USER_TABLES = ("namings", "weights", "layouts", "families")
"""The tables that a user's file may add to."""


def read_table(name: str) -> dict[str, Any]:
    """Read a file of `data/`."""
    return tomllib.loads((_DATA / name).read_text(encoding="utf-8"))


def read_row_names(name: str, table: str) -> tuple[str, ...]:
    """Return the names of the rows of a table in a file of `data/`, without parsing the file."""
    text = (_DATA / name).read_text(encoding="utf-8")
    return tuple(re.findall(rf"^\[{table}\.([A-Za-z0-9_-]+)\]", text, re.MULTILINE))


def read_row_texts(name: str) -> dict[str, str]:
    """Return the text of each row of a file of `data/`, for `parse_row`.

    A row begins with its header, such as `[mixtral]`. Tables in it, such as `[mixtral.stacks]`,
    follow.
    """
    text = (_DATA / name).read_text(encoding="utf-8")
    headers = [*_ROW.finditer(text)]
    ends = [header.start() for header in headers[1:]] + [len(text)]
    return {
        header[1]: text[header.start() : end] for header, end in zip(headers, ends, strict=True)
    }


def parse_row(name: str, text: str) -> Mapping[str, Any]:
    """Return the fields of the row called `name`, whose text is that of `read_row_texts`."""
    row: Mapping[str, Any] = tomllib.loads(text)[name]
    return row


MAX_FILE_BYTES = 1_000_000
"""The largest file of tables that is read. The shipped families have about 50,000 bytes."""
MAX_ROWS = 500
"""Rows in all tables of a file. Each layout is combined with each kind of weight."""
MAX_DOTS = 16
"""Dots in a key. The time to parse a key grows with the square of their number."""

_ROW = re.compile(r"^\[([A-Za-z0-9_-]+)\]", re.MULTILINE)
_PART = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')"""
_DEEP_KEY = re.compile(rf"(?<![A-Za-z0-9_-])(?:{_PART}[ \t]*+\.[ \t]*+){{{MAX_DOTS + 1}}}")


def read_user_tables(path: Path) -> dict[str, Rows]:
    """Read the tables of a user's file; those that it leaves out are empty.

    Raises UsageError if the file cannot be read, is not TOML, or has something else in the place
    of a table, row or field.
    """
    shown = quoted(str(path))
    try:
        text = _read_file(path).decode("utf-8")
        if _DEEP_KEY.search(text):
            raise ValueError(f"a key has more than {MAX_DOTS} dots")
        tables = tomllib.loads(text)
    except RecursionError:
        raise UsageError(f"cannot read the tables of {shown}: nested too deeply", COMPARE) from None
    except OSError as error:
        reason = f"cannot read the tables of {shown}: {error.strerror}"
        raise UsageError(reason, "give the path of a TOML file") from None
    except ValueError as error:  # UnicodeDecodeError and TOMLDecodeError, too
        reason = f"cannot read the tables of {shown}: {quoted(str(error))}"
        raise UsageError(reason, COMPARE) from None
    for name in tables:
        if name not in USER_TABLES:
            raise UsageError(
                f"cannot read {quoted(name)} of {shown}: there is no such table",
                f"name it one of {', '.join(USER_TABLES)}",
            )
    found: dict[str, Rows] = {}
    for name in USER_TABLES:
        found[name] = tables.get(name, {})
        check_rows(name, found[name], shown)
    if sum(map(len, found.values())) > MAX_ROWS:
        raise UsageError(
            f"cannot read the tables of {shown}: they have over {MAX_ROWS} rows",
            "leave the rows that no checkpoint needs out",
        )
    return found


def _read_file(path: Path) -> bytes:
    """Return the bytes of a small regular file. Raises OSError or ValueError for anything else."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is not a regular file")
    # without O_NONBLOCK, opening a FIFO that has replaced it would wait for a writer
    with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        raw = file.read(MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:
        raise ValueError(f"it has more than {MAX_FILE_BYTES:,} bytes")
    return raw

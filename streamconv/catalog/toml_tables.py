"""The files that tables are written in: those of `data/`, and a user's like them."""

import functools
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from streamconv.errors import UsageError

Load = TypeVar("Load", bound=Callable[..., Any])

_added: list[Path] = []
"""A user's files, in the order in which they were added."""
_forget: list[Callable[[], None]] = []
"""What makes each table that was read be read again."""


def table(load: Load) -> Load:
    """`load`, once: again only where rows have been added since."""
    cached = functools.cache(load)
    _forget.append(cached.cache_clear)
    return cast("Load", cached)


def add_tables(path: Path) -> None:
    """Take in the rows of a file written like the tables here, for the rest of the process.

    Its tables are `namings`, `layouts` and `families`; a row that has the name of one that is
    there stands in its place. Raises UsageError where the file cannot be read or is no TOML.
    """
    try:
        tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} is no table of families: {error}") from None
    if path not in _added:
        _added.append(path)
    for forget in _forget:
        forget()


def added_tables(name: str) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The tables called `name` of the files that were added, in their order."""
    for path in _added:
        yield path, tomllib.loads(path.read_text(encoding="utf-8")).get(name, {})


def read_table(name: str) -> dict[str, Any]:
    """What a file of `data/` says."""
    from importlib import resources

    text = resources.files("streamconv.catalog").joinpath("data", name).read_text(encoding="utf-8")
    return tomllib.loads(text)


def rows(name: str) -> dict[str, Any]:
    """The rows of a table of layouts.toml, and of what was added to it. Raises UsageError."""
    found = dict(read_table("layouts.toml")[name])
    for path, added in added_tables(name):
        for row, fields in added.items():
            if not isinstance(fields, dict):
                raise UsageError(f"{path}: {name}.{row} is no row: it has to be a table")
            found[row] = fields
    return found

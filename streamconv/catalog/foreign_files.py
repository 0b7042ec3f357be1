"""Files that are mistaken for a safetensors checkpoint: rows of `data/foreign_files.toml`."""

import functools
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase

from streamconv.catalog.toml_tables import read_table


@dataclass(frozen=True, slots=True)
class ForeignFiles:
    """A kind of files that are no checkpoint; the comment of the table explains the fields."""

    name: str
    says: str
    way: str
    names: tuple[str, ...]

    def found_in(self, names: Collection[str]) -> str:
        """Return the first of the names that fits; empty if none does."""
        fit = (n for n in sorted(names) if any(fnmatchcase(n, glob) for glob in self.names))
        return next(fit, "")


def explain(names: Collection[str]) -> tuple[ForeignFiles, str] | None:
    """Return the kind of files that these names show, and one of the names; None if unknown."""
    for kind in _kinds():
        if name := kind.found_in(names):
            return kind, name
    return None


@functools.cache
def _kinds() -> tuple[ForeignFiles, ...]:
    return tuple(
        ForeignFiles(name, row["says"], row["way"], tuple(row["names"]))
        for name, row in read_table("foreign_files.toml").items()
    )

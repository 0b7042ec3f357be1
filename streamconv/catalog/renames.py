"""Names of tensors under one form as names under another: two-sided renames. Pure."""

import functools
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from streamconv.errors import UsageError


@dataclass(frozen=True)
class Rename:
    """A two-sided rename: `*` stands for the same text on both sides."""

    plain: str
    here: str
    unless: tuple[str, ...] = ()
    """What names here begin with that the rename did not make."""

    @cached_property
    def mark(self) -> str:
        """A text that every name has that `apply` is about: a look for it is cheaper."""
        return max(self.plain.split("*"), key=len)

    @cached_property
    def mark_here(self) -> str:
        """The same of `undo`."""
        return max(self.here.split("*"), key=len)

    def apply(self, name: str) -> str | None:
        """The form's name of what is plainly called `name`; None where this is not about it."""
        return _replace(self.plain, self.here, name)

    def undo(self, name: str) -> str | None:
        """The plain name of what the form calls `name`; None where this is not about it."""
        return None if name.startswith(self.unless) else _replace(self.here, self.plain, name)


def _replace(pattern: str, replacement: str, name: str) -> str | None:
    match = _compiled(pattern).fullmatch(name)
    if match is None:
        return None
    texts = iter(match.groups())
    return "".join(next(texts) if part == "*" else part for part in _parts(replacement))


@functools.cache
def _parts(pattern: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"(\*)", pattern) if part)


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile("".join("(.*)" if p == "*" else re.escape(p) for p in _parts(pattern)), re.S)


def read_rename(row: dict[str, Any]) -> Rename:
    """What a row of the table says. Raises UsageError for one that could not be undone."""
    plain, here = row["plain"], row["here"]
    if plain.count("*") != here.count("*"):
        raise UsageError(
            f"the rename of {plain!r} to {here!r} could not be undone: "
            "there have to be as many * on both sides"
        )
    return Rename(plain, here, tuple(row.get("unless", ())))

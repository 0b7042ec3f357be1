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

    hub_name: str
    form_name: str
    unless: tuple[str, ...] = ()
    """What names here begin with that the rename did not make."""

    @cached_property
    def hub_name_mark(self) -> str:
        """A text that every name has that `apply` is about: a look for it is cheaper."""
        return max(self.hub_name.split("*"), key=len)

    @cached_property
    def form_name_mark(self) -> str:
        """The same of `undo`."""
        return max(self.form_name.split("*"), key=len)

    def apply(self, name: str) -> str | None:
        """The form's name of what is plainly called `name`; None where this is not about it."""
        return _replace(self.hub_name, self.form_name, name)

    def undo(self, name: str) -> str | None:
        """The plain name of what the form calls `name`; None where this is not about it."""
        return (
            None if name.startswith(self.unless) else _replace(self.form_name, self.hub_name, name)
        )


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
    hub_name, form_name = row["hub_name"], row["form_name"]
    if hub_name.count("*") != form_name.count("*"):
        raise UsageError(
            f"the rename of {hub_name!r} to {form_name!r} could not be undone: "
            "there have to be as many * on both sides"
        )
    return Rename(hub_name, form_name, tuple(row.get("unless", ())))

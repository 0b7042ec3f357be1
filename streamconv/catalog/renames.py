"""Renames between the names of a tensor on the hub and in a form, in both directions."""

import functools
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from streamconv.errors import UsageError


@dataclass(frozen=True)
class Rename:
    """A rename that works in both directions; each `*` is the same text on both sides.

    For example, `thinker.model.*` on the hub and `model.*` in a form.
    """

    hub_name: str
    form_name: str
    unless: tuple[str, ...] = ()
    """Beginnings of names in the form that the rename did not make, so `undo` leaves them."""

    @cached_property
    def hub_name_mark(self) -> str:
        """The longest text in every name that `apply` changes; a search for it is cheaper."""
        return max(self.hub_name.split("*"), key=len)

    @cached_property
    def form_name_mark(self) -> str:
        """The longest text in every name that `undo` changes."""
        return max(self.form_name.split("*"), key=len)

    def apply(self, name: str) -> str | None:
        """Return the name in the form for a hub name, or None if the rename does not fit."""
        return _replace(self.hub_name, self.form_name, name)

    def undo(self, name: str) -> str | None:
        """Return the hub name for a name in the form, or None if the rename does not fit."""
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
    """Read a row of the table. Raises UsageError if the rename could not be undone."""
    hub_name, form_name = row["hub_name"], row["form_name"]
    if hub_name.count("*") != form_name.count("*"):
        raise UsageError(
            f"cannot use the rename of {hub_name!r} to {form_name!r}: it could not be undone",
            "write as many * on one side as on the other",
        )
    return Rename(hub_name, form_name, tuple(row.get("unless", ())))

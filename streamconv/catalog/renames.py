"""Renames between the names of a tensor on the hub and in a form, in both directions.

A rename of a weight renames its companions too, which its row does not mention.
"""

import functools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from streamconv.catalog.companions import endings_of
from streamconv.errors import UsageError


@dataclass(frozen=True)
class Rename:
    """A rename that works in both directions; each `*` is the same text on both sides.

    For example, `thinker.model.*` on the hub and `model.*` in a form. One that ends without a `*`
    also fits the companions of its weight: `a.w1` and `b.weight` stand for `a.w1_scale` and
    `b.weight_scale` as well.
    """

    hub_name: str
    form_name: str
    unless: tuple[str, ...] = ()
    """Beginnings of names in the form that the rename did not make, so `undo` leaves them."""

    @cached_property
    def hub_name_mark(self) -> str:
        """The longest text that every name has that `apply` changes: cheaper to look for."""
        return max(self._endings[0].stem.split("*"), key=len)

    @cached_property
    def form_name_mark(self) -> str:
        """The longest text that every name has that `undo` changes."""
        return max(self._endings[1].stem.split("*"), key=len)

    @cached_property
    def _endings(self) -> "tuple[_Side, _Side]":
        """Both sides, each as a stem and its endings, in the same order."""
        if "*" in (self.hub_name[-1:], self.form_name[-1:]):
            return _Side(self.hub_name), _Side(self.form_name)
        return _Side(*endings_of(self.hub_name)), _Side(*endings_of(self.form_name))

    def apply(self, name: str) -> str | None:
        """Return the name in the form for a hub name, or None if the rename does not fit."""
        in_hub, in_form = self._endings
        return _replace(in_hub, in_form, name)

    def undo(self, name: str) -> str | None:
        """Return the hub name for a name in the form, or None if the rename does not fit."""
        in_hub, in_form = self._endings
        return None if name.startswith(self.unless) else _replace(in_form, in_hub, name)


@dataclass(frozen=True, slots=True)
class _Side:
    """One side of a rename."""

    stem: str
    endings: tuple[str, ...] = ("",)


def _replace(old: _Side, new: _Side, name: str) -> str | None:
    pieces, ends = _split(old)
    if not name.endswith(tuple(ends)):
        return None
    for end, place in ends.items():
        stars = _fill(pieces, end, name)
        if stars is not None:
            texts = map("".join, zip(_split(new)[0], stars, strict=True))
            return "".join(texts) + new.stem.rpartition("*")[2] + new.endings[place]
    return None


@functools.cache
def _split(side: _Side) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the texts in front of the stars of a side, and those that can follow the last star.

    The place of its ending is given with each of the latter. Short ones come first.
    """
    *pieces, last = side.stem.split("*")
    ends = {last + ending: place for place, ending in enumerate(side.endings)}
    return tuple(pieces), dict(sorted(ends.items(), key=lambda each: len(each[0])))


def _fill(pieces: tuple[str, ...], end: str, name: str) -> list[str] | None:
    """Return the texts that make a whole name, one after each piece and the last before an end.

    The first of them is as long as possible, then the second one. None if there are none. A regular
    expression would try all places of all pieces before it says so: a few stars take for ever.
    """
    if not pieces:
        return [] if name == end else None
    first, *others = pieces
    begin, stop = len(first), len(name) - len(end)
    if begin > stop or not name.startswith(first) or not name.endswith(end):
        return None
    stars = []
    for piece in reversed(others):
        at = name.rfind(piece, begin, stop)
        if at < 0:
            return None
        stars.append(name[at + len(piece) : stop])
        stop = at
    return [name[begin:stop], *reversed(stars)]


def read_rename(row: dict[str, Any]) -> Rename:
    """Read a row of the table. Raises UsageError if the rename could not be undone."""
    hub_name, form_name = row["hub_name"], row["form_name"]
    if hub_name.count("*") != form_name.count("*"):
        raise UsageError(
            f"cannot use the rename of {hub_name!r} to {form_name!r}: it could not be undone",
            "write as many * on one side as on the other",
        )
    return Rename(hub_name, form_name, tuple(row.get("unless", ())))

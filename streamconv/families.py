"""Families of models and the forms in which ecosystems store them: rows of `data/families.toml`.

A form is a layout for each expert stack that it mentions, and renames between the hub's names
and its own. Whatever a form does not mention stays as it is.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

from streamconv.layouts import Layout, Naming, Row, _read_table, find_layout, namings

FORMS = ("hub", "transformers", "mindspeed")
"""As published; as transformers v5 holds it in memory; as MindSpeed-MM trains it."""

COUNT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts")
"""What configs call the number of experts, tried in this order."""


@dataclass(frozen=True)
class Rename:
    """A two-sided rename: `*` stands for the same text on both sides."""

    hub: str
    here: str
    unless: tuple[str, ...] = ()
    """What names here begin with that the rename did not make."""

    def apply(self, name: str) -> str | None:
        """The form's name of what the hub calls `name`; None where this is not about it."""
        return _replace(self.hub, self.here, name)

    def undo(self, name: str) -> str | None:
        """The hub's name of what the form calls `name`; None where this is not about it."""
        return None if name.startswith(self.unless) else _replace(self.here, self.hub, name)


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


@dataclass(frozen=True)
class Form:
    """How one ecosystem stores a family."""

    name: str
    layouts: tuple[tuple[str, Layout], ...]
    """Pattern of a stack in hub names, and the layout it has here; the first fit wins."""
    renames: tuple[Rename, ...] = ()

    def layout_of(self, stack: str) -> Layout | None:
        """The layout of the stack at this pattern of hub names; None where it stays as it is."""
        return next((lay for glob, lay in self.layouts if fnmatchcase(stack, glob)), None)

    def apply(self, name: str) -> str:
        """The name here of what the hub calls `name`: by the first rename that is about it."""
        renamed = (rename.apply(name) for rename in self.renames)
        return next((new for new in renamed if new is not None), name)

    def undo(self, name: str) -> str:
        """The hub's name of what is called `name` here."""
        renamed = (rename.undo(name) for rename in self.renames)
        return next((old for old in renamed if old is not None), name)

    def holds(self, hub_name: str) -> bool:
        """Whether the name comes back from here as it was."""
        return self.undo(self.apply(hub_name)) == hub_name


@dataclass(frozen=True)
class Family:
    """Model types that are stored alike."""

    name: str
    model_types: tuple[str, ...]
    naming: Naming
    stacks: Mapping[str, str]
    """Pattern of each stack in hub names, and the section of config.json that describes it."""
    forms: Mapping[str, Form]
    merge: str
    """The form that merging makes of it."""

    def row_of(self, stack: str, form: Form) -> Row | None:
        """The layout and naming of a stack in one of the forms; None where it stays as it is."""
        layout = form.layout_of(stack)
        return None if layout is None else Row(layout, self.naming)


HUB_NAMES = Form("hub", ())
"""The form of a checkpoint of no known family: nothing is renamed, nothing is mentioned."""


@functools.cache
def families() -> Mapping[str, Family]:
    """Every family by its name, in the order of the table."""
    return MappingProxyType(
        {name: _family(name, row) for name, row in _read_table("families.toml").items()}
    )


def _family(name: str, row: dict[str, Any]) -> Family:
    return Family(
        name=name,
        model_types=tuple(row["model_types"]),
        naming=namings()[row["naming"]],
        stacks=MappingProxyType(row["stacks"]),
        forms=MappingProxyType({form: _form(form, row[form]) for form in FORMS if form in row}),
        merge=row["merge"],
    )


def _form(name: str, row: dict[str, Any]) -> Form:
    return Form(
        name=name,
        layouts=tuple((glob, find_layout(layout)) for glob, layout in row["layouts"].items()),
        renames=tuple(
            Rename(r["hub"], r["here"], tuple(r.get("unless", ()))) for r in row.get("renames", ())
        ),
    )


def family_of(model_type: object) -> Family | None:
    """The family that has this `model_type`, or None."""
    return next((f for f in families().values() if model_type in f.model_types), None)

"""The layouts and namings there are: rows of `data/layouts.toml`, read by one loader. Pure.

A layout is axes only. `Row` is a layout together with what the projections are called, which is
all that is needed to write a stack's tensor names and shapes, or to recognise them.
"""

import functools
import itertools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Any

from streamconv.axes import EXPERT, Template
from streamconv.errors import UsageError

REQUIRED = ("gate_up", "down")
"""The weights that a stack of experts cannot do without."""


@dataclass(frozen=True, eq=False)
class Naming:
    """What the positions on the projection axes are called: `p` gate and up, `d` down.

    Namings and layouts are loaded once, so that one is equal to itself alone.
    """

    name: str
    tokens: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Layout:
    """Where every axis of the expert weights lives, one template a weight."""

    name: str
    used_by: str
    templates: Mapping[str, Template]


@dataclass(frozen=True)
class Row:
    """A layout under a naming."""

    layout: Layout
    naming: Naming

    def sizes(self) -> dict[str, int]:
        """The axis sizes that the naming settles: two projections on `p`, one on `d`."""
        return {axis: len(tokens) for axis, tokens in self.naming.tokens.items()}

    def token(self, axis: str, position: int) -> str:
        """What a position on `axis` is called in a tensor's name."""
        return str(position) if axis == EXPERT else self.naming.tokens[axis][position]

    def names_projections(self) -> bool:
        """Whether the names of its tensors tell the naming."""
        axes = {a for template in self.layout.templates.values() for a in template.name_axes}
        return any(axis in axes for axis in self.naming.tokens)


def _read_table(name: str) -> dict[str, Any]:
    text = resources.files("streamconv").joinpath("data", name).read_text(encoding="utf-8")
    return tomllib.loads(text)


@functools.cache
def layouts() -> Mapping[str, Layout]:
    """Every layout by its name, in the order of the table."""
    rows = {}
    for name, row in _read_table("layouts.toml")["layouts"].items():
        used_by = row.pop("used_by")
        templates = {weight: Template.parse(text) for weight, text in row.items()}
        rows[name] = Layout(name, used_by, MappingProxyType(templates))
    return MappingProxyType(rows)


@functools.cache
def namings() -> Mapping[str, Naming]:
    """Every naming by its name; the first one is what is used where nothing else is known."""
    return MappingProxyType(
        {
            name: Naming(name, MappingProxyType({axis: tuple(t) for axis, t in row.items()}))
            for name, row in _read_table("layouts.toml")["namings"].items()
        }
    )


def find_layout(name: str) -> Layout:
    """The layout called `name`; raises UsageError that lists those there are."""
    try:
        return layouts()[name]
    except KeyError:
        raise UsageError(
            f"there is no layout called {name!r}", f"the layouts are {', '.join(layouts())}"
        ) from None


@dataclass(frozen=True, slots=True)
class Role:
    """What a tensor's name makes it under one row: which weight, at which projection."""

    row: Row
    weight: str
    position: tuple[int | None, ...]
    """Positions on the axes of the template's name; None for the expert's number."""


@functools.cache
def roles() -> Mapping[str, tuple[Role, ...]]:
    """Names below a module's prefix, with * for the expert's number, to what they can mean.

    Looking a name up is one hash, however many rows there are. A row whose names do not tell
    the naming stands in it once, under the first naming.
    """
    table: dict[str, list[Role]] = {}
    for layout, naming in itertools.product(layouts().values(), namings().values()):
        row = Row(layout, naming)
        if not row.names_projections() and naming is not next(iter(namings().values())):
            continue
        for weight, template in layout.templates.items():
            axes = template.name_axes
            spans = [[None] if a == EXPERT else range(len(naming.tokens[a])) for a in axes]
            for position in itertools.product(*spans):
                tokens = {
                    axis: "*" if k is None else naming.tokens[axis][k]
                    for axis, k in zip(axes, position, strict=True)
                }
                name = template.tensor_name(tokens)
                table.setdefault(name, []).append(Role(row, weight, position))
    return MappingProxyType({name: tuple(found) for name, found in table.items()})

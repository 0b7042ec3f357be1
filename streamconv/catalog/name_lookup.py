"""Looks up the meanings of a tensor's name: a weight, under several layouts and namings."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from streamconv.catalog.layouts import Layout, NamedLayout, Naming


@dataclass(frozen=True, slots=True)
class NameMatch:
    """A meaning of a tensor's name: a weight of a layout, at a position."""

    row: NamedLayout
    weight: str
    position: tuple[int | None, ...]
    """Positions on the axes of the template's name; None for the expert's number."""


def build_name_lookup(
    layouts: Iterable[Layout], namings: Sequence[Naming]
) -> Mapping[str, tuple[NameMatch, ...]]:
    """Build the map from names below a module's prefix to what they can mean.

    `*` takes the place of the expert's number, so that a lookup is one hash, however many layouts
    there are. A layout whose names do not show the naming is in it once, under the first naming.
    """
    matches: dict[str, list[NameMatch]] = {}
    for layout, naming in itertools.product(layouts, namings):
        row = NamedLayout(layout, naming)
        if not row.names_projections() and naming is not namings[0]:
            continue
        for weight, template in layout.templates.items():
            for name, position in row.names(template):
                matches.setdefault(name, []).append(NameMatch(row, weight, position))
    return MappingProxyType({name: tuple(found) for name, found in matches.items()})

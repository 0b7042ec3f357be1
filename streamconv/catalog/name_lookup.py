"""What the names of tensors can mean: which weight, under which layouts and namings. Pure."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from streamconv.catalog.layouts import NamedLayout, Naming, layouts, namings
from streamconv.catalog.toml_tables import table


@dataclass(frozen=True, slots=True)
class NameMatch:
    """What a tensor's name makes it under one row: which weight, at which projection."""

    row: NamedLayout
    weight: str
    position: tuple[int | None, ...]
    """Positions on the axes of the template's name; None for the expert's number."""


@table
def names_to_weights(naming: Naming | None = None) -> Mapping[str, tuple[NameMatch, ...]]:
    """Names below a module's prefix, with * for the expert's number, to what they can mean.

    Under `naming` alone, or under all that may be anywhere. Looking a name up is one hash, however
    many rows there are. A row whose names do not tell the naming stands in it once, under the
    first naming.
    """
    meant: dict[str, list[NameMatch]] = {}
    considered: Iterable[Naming] = (naming,) if naming else namings().values()
    wanted = [one for one in considered if naming or one.auto_detect]
    for layout, one in itertools.product(layouts().values(), wanted):
        row = NamedLayout(layout, one)
        if not row.names_projections() and one is not wanted[0]:
            continue
        for weight, template in layout.templates.items():
            for name, position in row.names(template):
                meant.setdefault(name, []).append(NameMatch(row, weight, position))
    return MappingProxyType({name: tuple(found) for name, found in meant.items()})

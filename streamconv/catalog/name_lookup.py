"""Looks up what a tensor's name can mean: a weight, in one or several layouts and namings."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from streamconv.catalog.frozen_map import FrozenMap
from streamconv.catalog.layouts import Layout, NamedLayout, Naming
from streamconv.catalog.weight_kinds import WeightKind

_PROJECTION = "{p}"
_WEIGHT = "weight"


class NameMatch(NamedTuple):
    """A meaning of a tensor's name: a weight of a layout, at a position.

    It is a tuple, which is made in a third of the time of a dataclass: a catalog has thousands.
    """

    row: NamedLayout
    weight: str
    position: tuple[int | None, ...]
    """Positions on the axes of the template's name; None for the expert's number."""


@dataclass(frozen=True, slots=True)
class Spelling:
    """Another name of a tensor, and the names that templates give it."""

    name: str
    """Below the module's prefix, with * for the expert's number and {p} for each projection."""
    template_names: tuple[str, ...]

    def pairs(
        self, kinds: Iterable[WeightKind], tokens: Iterable[str]
    ) -> Iterator[tuple[str, str]]:
        """Yield, for a weight of each kind, the other name and the name that a template gives."""
        ends = dict.fromkeys((kind.part, kind.suffix) for kind in kinds)
        names = tokens if _PROJECTION in self.name else [""]
        for token, template_name in itertools.product(names, self.template_names):
            own = self.name.replace(_PROJECTION, token)
            other = template_name.replace(_PROJECTION, token)
            for end in ends:
                yield _of_kind(own, *end), _of_kind(other, *end)


def _of_kind(name: str, part: str, suffix: str) -> str:
    """Return the name of a companion; `part` replaces `weight`, `suffix` follows other names."""
    if name.endswith((f".{_WEIGHT}", f"_{_WEIGHT}")):
        return name.removesuffix(_WEIGHT) + part
    return name + suffix


def build_name_lookup(
    layouts: Iterable[Layout],
    namings: Sequence[Naming],
    kinds: Iterable[WeightKind] = (),
    spellings: Iterable[Spelling] = (),
) -> Mapping[str, tuple[NameMatch, ...]]:
    """Build the map from names below a module's prefix to what they can mean.

    `*` takes the place of the expert's number, so that one lookup in a dictionary is enough,
    however many layouts there are. A layout whose names do not show the naming is listed once,
    under the first naming.

    Args:
        layouts: The layouts whose templates give names.
        namings: The namings of the projections to consider.
        kinds: The kinds of weights that the spellings apply to.
        spellings: Other names, each with the meanings of the template names that it replaces.
    """
    matches: dict[str, list[NameMatch]] = {}
    for layout, naming in itertools.product(layouts, namings):
        row = NamedLayout(layout, naming)
        if not row.names_projections() and naming is not namings[0]:
            continue
        # weights of one name, such as scales of several shapes, have the same names
        names: dict[str, list[tuple[str, tuple[int | None, ...]]]] = {}
        for weight, template in layout.templates.items():
            if template.name not in names:
                names[template.name] = list(row.names(template))
            for name, position in names[template.name]:
                matches.setdefault(name, []).append(NameMatch(row, weight, position))
    kinds = tuple(kinds)
    listed = (token for naming in namings for names in naming.tokens.values() for token in names)
    tokens = tuple(dict.fromkeys(listed))
    pairs = (pair for spelling in spellings for pair in spelling.pairs(kinds, tokens))
    known = {name: tuple(found) for name, found in matches.items()}
    return FrozenMap(known | _spelled(pairs, known))


def _spelled(
    pairs: Iterable[tuple[str, str]], known: Mapping[str, tuple[NameMatch, ...]]
) -> dict[str, tuple[NameMatch, ...]]:
    """Return the meanings of other names: their own if any, then those of the names they replace.

    Args:
        pairs: The other name and a name that a template gives, as of `Spelling.pairs`.
        known: The meanings of the names that templates give.
    """
    spelled: dict[str, list[tuple[NameMatch, ...]]] = {}
    for name, template_name in pairs:
        if template_name in known:
            own = [known[name]] if name in known else []
            spelled.setdefault(name, own).append(known[template_name])
    # most names replace a single one, and share its meanings
    return {
        name: found[0] if len(found) == 1 else tuple(dict.fromkeys(itertools.chain(*found)))
        for name, found in spelled.items()
    }

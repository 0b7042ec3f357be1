"""Find out from the shapes of tensors what their names leave open.

A scale can be a number for each output, for each block, or a single number. These are different
kinds of weights with the same name. All tensors of that name in a module are of one kind.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping

from streamconv.catalog.layouts import Layout, NamedLayout
from streamconv.catalog.name_lookup import NameMatch
from streamconv.catalog.weight_kinds import MATRICES, WeightKind
from streamconv.detection.expert_names import NamedTensors


def shape_readings(found: NamedTensors, row: NamedLayout) -> Iterator[dict[str, NameMatch]]:
    """Yield what the names of a module can mean in a layout, the likeliest first.

    A reading decides on one kind of weight for each word in place of `weight`, such as
    `weight_scale`. Kinds with another number of dimensions or another dtype are left out. If none
    is left, the first kind is used, so that the checks of its shapes find and name the defect.
    """
    meanings = {
        key: [match for match in matches if match.row == row]
        for key, matches in found.matches.items()
    }
    by_part: dict[str, list[dict[str, NameMatch]]] = {}
    for part, keys in _by_part(row.layout, meanings).items():
        kinds = dict.fromkeys(row.layout.kinds[m.weight] for key in keys for m in meanings[key])
        choices = [_of_kind(row.layout, meanings, keys, kind) for kind in kinds]
        complete = [choice for choice in choices if len(choice) == len(keys)]
        by_part[part] = [
            choice
            for choice in complete
            if all(_can_be(found, key, match, row.layout) for key, match in choice.items())
        ] or [{key: meanings[key][0] for key in keys}]
    for chosen in itertools.product(*by_part.values()):
        together = {key: match for choice in chosen for key, match in choice.items()}
        yield {key: together[key] for key in found.matches}


def _by_part(layout: Layout, meanings: Mapping[str, list[NameMatch]]) -> dict[str, list[str]]:
    """Return the names below a prefix by their word in place of `weight`."""
    parts: dict[str, list[str]] = {}
    for key, matches in meanings.items():
        parts.setdefault(layout.kinds[matches[0].weight].part, []).append(key)
    return parts


def _of_kind(
    layout: Layout,
    meanings: Mapping[str, list[NameMatch]],
    keys: Iterable[str],
    kind: WeightKind,
) -> dict[str, NameMatch]:
    """Return the meaning of each name that can be of a kind."""
    found = {
        key: next((m for m in meanings[key] if layout.kinds[m.weight] is kind), None)
        for key in keys
    }
    return {key: match for key, match in found.items() if match is not None}


def _can_be(found: NamedTensors, key: str, match: NameMatch, layout: Layout) -> bool:
    """Return True if a tensor has the dimensions and the dtype of a meaning of its name."""
    info, kind = found.first(key), layout.kinds[match.weight]
    is_dtype = not kind.dtypes or info.dtype in kind.dtypes
    return is_dtype and len(info.shape) == len(layout.templates[match.weight].dims)


def counts_fit(layout: Layout, weights: Iterable[str], sizes: Mapping[str, int]) -> bool:
    """Return True if each axis that counts elements has just enough to hold all positions."""
    for weight in weights:
        kind = layout.kinds[weight]
        matrix = next(name for name in MATRICES if weight == name + kind.key)
        for own, axis in kind.counted(matrix).items():
            if own in kind.per and sizes[own] != -(-sizes[axis] // kind.per[own]):
                return False
    return True

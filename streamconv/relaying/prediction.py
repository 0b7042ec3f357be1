"""Predicts all tensors of a layer's experts from those that have arrived.

The layout says which weights are missing, and the number of experts how many tensors. The shape of
a tensor that has arrived settles the sizes of its axes, and these give the shapes of the others.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from streamconv.catalog.layouts import NamedLayout
from streamconv.catalog.name_lookup import NameMatch
from streamconv.catalog.templates import EXPERT, Template, solve_sizes
from streamconv.catalog.weight_kinds import MATRICES
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.completeness import WeightPair, required_pair
from streamconv.detection.expert_names import NamedTensors
from streamconv.detection.shape_readings import shape_readings
from streamconv.detection.stacks import check_alike
from streamconv.errors import BadCheckpoint, quoted
from streamconv.lazy.arrays import nbytes_of
from streamconv.relaying.modules import ExpertKey

Found = Mapping[str, tuple[ExpertKey, TensorInfo]]
"""By the name below the module: the first tensor of this name that has arrived, of any expert."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The predicted experts of a layer in one layout."""

    infos: Mapping[str, TensorInfo] | None
    """Every tensor by its name below the module; None if a shape cannot be predicted yet."""
    is_complete: bool
    """True if, for each kind of weight, all projections of one expert have arrived."""
    is_plain: bool
    """True if only matrices have arrived: the meaning of scales may depend on later tensors."""


def predict(
    found: Found, row: NamedLayout, pairs: Sequence[WeightPair], counts: Sequence[int]
) -> Iterator[Prediction]:
    """Yield what the experts of a layer can be in a layout; nothing if they do not have it.

    Args:
        found: Those of their tensors that have arrived.
        row: The layout and naming.
        pairs: Pairs of weights of gate_up and down, one of which is required.
        counts: The numbers of experts that the layer may have, the likeliest first.

    Raises:
        BadCheckpoint: Two of the names mean the same, or the tensors of a weight are not alike.
    """
    named = NamedTensors(
        {name: key.matches for name, (key, _) in found.items()},
        {name: {0: info} for name, (_, info) in found.items()},
    )
    if all(any(match.row == row for match in key.matches) for key, _ in found.values()):
        for meanings in shape_readings(named, row):
            yield from _predict_meaning(found, row, meanings, pairs, counts)


def _predict_meaning(
    found: Found,
    row: NamedLayout,
    meanings: Mapping[str, NameMatch],
    pairs: Sequence[WeightPair],
    counts: Sequence[int],
) -> Iterator[Prediction]:
    """Yield what the experts of a layer can be, given what each name means."""
    by_weight: dict[str, TensorInfo] = {}
    names: _Names = {}
    for name, match in meanings.items():
        key, info = found[name]
        check_alike([by_weight.setdefault(match.weight, info), info])
        other = names.setdefault((match.weight, match.position), key)
        if other is not key:
            raise BadCheckpoint(
                f"tensors {quoted(found[other.name][1].name)} and {quoted(info.name)} are two "
                "spellings of one name"
            )
    templates, kinds = row.layout.templates, row.layout.kinds
    required = required_pair(by_weight, pairs)
    if not all(weight in templates for weight in required):
        return
    weights = dict.fromkeys((*by_weight, *required))
    pairs_of_kinds = {m + kinds[weight].key for weight in weights for m in MATRICES}
    is_complete = all(
        (weight, position) in names
        for weight in pairs_of_kinds & templates.keys()
        for _, position in row.names(templates[weight])
    )
    is_plain = by_weight.keys() <= {*pairs[0]}
    shapes = [((templates[weight],), info.shape) for weight, info in by_weight.items()]
    is_numbered = any(EXPERT in templates[weight].name_axes for weight in by_weight)
    known = row.sizes()
    known |= {axis: size for weight in weights for axis, size in kinds[weight].sizes.items()}
    alone = None if is_numbered else solve_sizes(shapes, known)
    solved = [solve_sizes(shapes, {**known, EXPERT: count}) for count in counts]
    for sizes in [alone] if alone else filter(None, solved):
        yield Prediction(_complete(row, by_weight, weights, names, sizes), is_complete, is_plain)
    if not counts and not alone and any(_hides_experts(templates[w]) for w in by_weight):
        yield Prediction(None, is_complete, is_plain)


_Names = dict[tuple[str, tuple[int | None, ...]], ExpertKey]
"""The names that have arrived, by weight and position, which is None for the expert's number."""


def _complete(
    row: NamedLayout,
    by_weight: Mapping[str, TensorInfo],
    weights: Iterable[str],
    names: _Names,
    sizes: Mapping[str, int],
) -> dict[str, TensorInfo] | None:
    """Return all tensors of some weights by name; None if a shape does not follow from `sizes`."""
    made: dict[str, TensorInfo] = {}
    first = next(iter(by_weight.values()))
    for weight in weights:
        template = row.layout.templates[weight]
        info = by_weight.get(weight)
        if not {*template.axes, *template.name_axes} <= sizes.keys():
            return None
        shape = info.shape if info else template.shape(sizes)
        dtype = info.dtype if info else first.dtype
        for position in itertools.product(*(range(sizes[a]) for a in template.name_axes)):
            name = _name(row, template, weight, position, names)
            made[name] = TensorInfo(name, dtype, shape, "", 0, nbytes_of(dtype, shape))
    return made


def _hides_experts(template: Template) -> bool:
    """Return True if the number of experts does not follow from a name or shape alone."""
    return EXPERT in template.name_axes or any(
        EXPERT in dim and len(dim) > 1 for dim in template.dims
    )


def _name(
    row: NamedLayout,
    template: Template,
    weight: str,
    position: tuple[int, ...],
    names: _Names,
) -> str:
    """Return the name of a tensor, spelled like those that have arrived."""
    axes = template.name_axes
    tokens = row.naming.tokens
    known = tuple(at if a in tokens else None for a, at in zip(axes, position, strict=True))
    key = names.get((weight, known))
    if key is None:
        return row.name(template, position)
    numbers = [at for axis, at in zip(axes, position, strict=True) if axis not in tokens]
    return key.with_number(numbers[0] if numbers else None)

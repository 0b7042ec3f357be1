"""Find the experts of a checkpoint by the names of its tensors.

The names come from the catalog of layouts. Experts are ordered by their numbers and have to be
complete: 0 to E-1 for every projection, equal in shape and dtype. Names and shapes show which
layouts fit; `resolve_layout` decides between several.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from streamconv.catalog.catalog import Catalog
from streamconv.catalog.companions import stem_of
from streamconv.catalog.layouts import NamedLayout, Naming
from streamconv.catalog.templates import EXPERT, solve_sizes
from streamconv.checkpoint.tensor_names import pattern_of
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.completeness import WeightPair, complete_weights
from streamconv.detection.expert_names import NamedTensors, find_modules, refuse_undescribed
from streamconv.detection.refusals import Refusals
from streamconv.detection.shape_readings import counts_fit, shape_readings
from streamconv.detection.stacks import Module, Stack
from streamconv.errors import BadCheckpoint, quoted

PACKED_DTYPES = frozenset({"I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "F4"})
"""Dtypes of weights that are stored as codes, often several of them in an element."""
PossibleCounts = Callable[[str, str], Sequence[int]]
"""The numbers of experts that a module may have, by its prefix and its pattern."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layout that the experts of one layer can have, and their tensors by its weights."""

    row: NamedLayout
    module: Module
    sizes: Mapping[str, int]
    """Size of each axis."""

    @property
    def pattern(self) -> str:
        """The module's prefix, with * for numbers."""
        return pattern_of(self.module.prefix)


@dataclass(frozen=True, slots=True)
class ModuleExperts:
    """The experts of one layer, with every layout that their names and shapes fit."""

    pattern: str
    """Prefix of the layer's module, with * for numbers."""
    shapes: str
    """Names and shapes of its tensors, as messages show them."""
    candidates: tuple[Candidate, ...]
    misfit: tuple[TensorInfo, TensorInfo] | None = None
    """If no layout fits: a companion without which a layout would fit, and its weight."""
    packed: TensorInfo | None = None
    """If no layout fits: a weight whose elements are codes, or hold several of them."""


def find_experts(
    tensors: Iterable[tuple[str, TensorInfo]],
    catalog: Catalog,
    possible_counts: PossibleCounts,
    naming: Naming | None = None,
    refusals: Refusals | None = None,
) -> Iterator[ModuleExperts]:
    """Find the modules that hold experts.

    Args:
        tensors: Every tensor with its hub name.
        catalog: The layouts to look for.
        possible_counts: The numbers of experts that a module may have. They settle the sizes if
            the shapes alone do not.
        naming: The only naming to look for; None for all.
        refusals: Collects the modules whose experts cannot be converted: experts are missing, not
            alike, not numbered 0, 1, 2 and so on, of more than one layout, or of none.

    Yields:
        The experts of each module that is not refused, sorted by name.

    Raises:
        BadCheckpoint, PlanRefused: Experts cannot be converted, and `refusals` does not collect.
    """
    refusals = refusals or Refusals(collects=False)
    known = catalog.names_to_weights(naming)
    modules, unknown = find_modules(tensors, known, refusals)
    refuse_undescribed(unknown, modules, known, refusals)
    for prefix, named in modules.items():
        pattern = pattern_of(prefix)
        if pattern in refusals:
            continue
        try:
            yield _module_experts(prefix, named, catalog, possible_counts)
        except BadCheckpoint as error:
            refusals.add(pattern, error)


def _module_experts(
    prefix: str, found: NamedTensors, catalog: Catalog, possible_counts: PossibleCounts
) -> ModuleExperts:
    """Return the experts of one module with every layout that fits them."""
    pattern = pattern_of(prefix)
    pairs, counts = catalog.required_weight_pairs, possible_counts(prefix, pattern)
    candidates = tuple(_candidates(prefix, found, pairs, counts))
    misfit = None if candidates else _misfit(prefix, found, pairs, counts)
    packed = None if candidates else _packed(found)
    return ModuleExperts(pattern, _shapes(found), candidates, misfit, packed)


def _packed(found: NamedTensors) -> TensorInfo | None:
    """Return a tensor of integers, which no plain weight has, or None."""
    infos = (found.first(key) for key in sorted(found.tensors))
    return next((info for info in infos if info.dtype in PACKED_DTYPES), None)


def _misfit(
    prefix: str, found: NamedTensors, pairs: Sequence[WeightPair], counts: Sequence[int]
) -> tuple[TensorInfo, TensorInfo] | None:
    """Return a companion without which a layout would fit, and its weight; None if there is none.

    `found` are tensors that no layout fits if the companions are included.
    """
    required = {weight for pair in pairs for weight in pair}
    weights = {
        key: matches
        for key, matches in found.matches.items()
        if any(match.weight in required for match in matches)
    }
    bare = NamedTensors(weights, {key: found.tensors[key] for key in weights})
    if not weights or not any(_candidates(prefix, bare, pairs, counts)):
        return None
    owners = {stem_of(i.name): i for infos in bare.tensors.values() for i in infos.values()}
    return next(
        (
            (info, owners[stem_of(info.name)])
            for key in sorted(found.tensors)
            for info in (found.first(key),)
            if key not in weights and stem_of(info.name) in owners
        ),
        None,
    )


def stack_experts(choices: Iterable[Candidate]) -> tuple[Stack, ...]:
    """Group modules into stacks of the same pattern, layout, dtypes and number of experts.

    Raises BadCheckpoint if other sizes differ between the layers of a pattern.
    """
    firsts: dict[tuple[object, ...], Candidate] = {}
    stacks: dict[tuple[object, ...], list[Candidate]] = {}
    for choice in choices:
        tensors = sorted(choice.module.tensors.items())
        dtypes = tuple((weight, infos[0].dtype) for weight, infos in tensors)
        alike = (choice.pattern, choice.row, dtypes)
        _check_sizes(choice, firsts.setdefault(alike, choice))
        stacks.setdefault((*alike, choice.sizes[EXPERT]), []).append(choice)
    return tuple(
        Stack(
            first.pattern, first.row, first.sizes, (first.module, *(each.module for each in rest))
        )
        for first, *rest in stacks.values()
    )


def _candidates(
    prefix: str, found: NamedTensors, pairs: Sequence[WeightPair], counts: Sequence[int]
) -> Iterator[Candidate]:
    """Yield each layout whose names and shapes the module has.

    One of `pairs` of weights is required. `counts` are the possible numbers of experts, in case
    shapes alone do not settle it.
    """
    rows = dict.fromkeys(
        match.row
        for matches in found.matches.values()
        for match in matches
        if all(any(m.row == match.row for m in other) for other in found.matches.values())
    )
    if not rows:
        raise BadCheckpoint(
            f"{quoted(prefix)}experts holds tensors of more than one layout: "
            f"{quoted(', '.join(found.matches))}"
        )
    for row in rows:
        for meanings in shape_readings(found, row):
            tensors = complete_weights(prefix, found, row, meanings, pairs)
            sizes = _solve(found, row, tensors, counts)
            if sizes is not None:
                kinds = row.layout.kinds
                matrices = {key for key, m in meanings.items() if kinds[m.weight].required}
                is_spelled = not matrices <= _template_names(row)
                named = replace(row, is_spelled=is_spelled)
                yield Candidate(named, Module(prefix, tensors), sizes)
                break


def _solve(
    found: NamedTensors,
    row: NamedLayout,
    tensors: Mapping[str, tuple[TensorInfo, ...]],
    counts: Sequence[int],
) -> dict[str, int] | None:
    """Return the size of each axis with which all tensors have their shapes, or None."""
    layout = row.layout
    shapes = [((layout.templates[w],), infos[0].shape) for w, infos in tensors.items()]
    known = row.sizes() | {
        axis: size for w in tensors for axis, size in layout.kinds[w].sizes.items()
    }
    if any(EXPERT in layout.templates[weight].name_axes for weight in tensors):
        known[EXPERT] = 1 + max(found.expert_numbers())
    sizes = solve_sizes(shapes, known)
    if sizes is None and EXPERT not in known:
        solved = (solve_sizes(shapes, {**known, EXPERT: count}) for count in counts)
        sizes = next(filter(None, solved), None)
    return sizes if sizes and counts_fit(layout, tensors, sizes) else None


@functools.cache
def _template_names(row: NamedLayout) -> frozenset[str]:
    """Return the names of all tensors of a layout, with * for the expert's number."""
    templates = row.layout.templates.values()
    return frozenset(name for template in templates for name, _ in row.names(template))


def _check_sizes(one: Candidate, other: Candidate) -> None:
    """Raise BadCheckpoint if two layers differ in more than their number of experts."""
    if {**one.sizes, EXPERT: 0} != {**other.sizes, EXPERT: 0}:
        raise BadCheckpoint(
            f"{quoted(one.module.prefix)}experts has {_show_sizes(one.sizes)}, "
            f"{quoted(other.module.prefix)}experts has {_show_sizes(other.sizes)}: "
            "the layers of a stack have to be alike"
        )


def _show_sizes(sizes: Mapping[str, int]) -> str:
    return f"{sizes['e']} experts, intermediate {sizes['i']}, hidden {sizes['h']}"


def _shapes(found: NamedTensors) -> str:
    """Return names and shapes of the tensors as they are stored, with * for numbers."""
    firsts = ((key, found.first(key)) for key in found.tensors)
    shapes = {
        ".".join(pattern_of(info.name).split(".")[-1 - key.count(".") :]): info.shape
        for key, info in firsts
    }
    return ", ".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items()))

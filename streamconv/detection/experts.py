"""Find the experts of a checkpoint by the names of its tensors.

The names come from the catalog of layouts. Experts are ordered by their numbers and have to be
complete: 0 to E-1 for every projection, equal in shape and dtype. Which layouts fit them follows
from names and shapes; which one of these it is, `resolve_layout` decides.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from streamconv.catalog.catalog import Catalog
from streamconv.catalog.companions import stem_of
from streamconv.catalog.layouts import NamedLayout, Naming
from streamconv.catalog.name_lookup import NameMatch
from streamconv.catalog.templates import EXPERT, solve_sizes
from streamconv.checkpoint.tensor_names import pattern_of
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.stacks import Module, Stack, check_alike
from streamconv.errors import BadCheckpoint, PlanRefused, quoted

WeightPair = tuple[str, str]
"""The weights of gate_up and down."""
Position = tuple[int, ...]
"""Positions on the axes in a tensor's name."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layout that the experts of one layer can have, and the experts in its terms."""

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
    """If no layout fits: a companion without which one would, and its weight."""


@dataclass(frozen=True, slots=True)
class _NamedTensors:
    """The tensors of one module whose names are in the catalog."""

    matches: dict[str, tuple[NameMatch, ...]] = field(default_factory=dict)
    """Meanings of each name below the prefix, with * for the expert's number."""
    tensors: dict[str, dict[int | None, TensorInfo]] = field(default_factory=dict)
    """Tensors by the same name, and by the expert's number."""

    def expert_numbers(self) -> set[int]:
        return {number for infos in self.tensors.values() for number in infos if number is not None}


def find_experts(
    tensors: Iterable[tuple[str, TensorInfo]],
    catalog: Catalog,
    expert_counts: Mapping[str, int],
    naming: Naming | None = None,
    *,
    pass_through: bool = False,
) -> tuple[Iterator[ModuleExperts], tuple[str, ...]]:
    """Find the modules that hold experts.

    Args:
        tensors: Every tensor with its hub name.
        catalog: The layouts to look for.
        expert_counts: By the pattern of a module, the number of experts in config.json. It settles
            the sizes if the shapes alone do not.
        naming: The only naming to look for; None for all.
        pass_through: Skip modules with experts that no layout describes.

    Returns:
        The experts of each module, in the order of the names, and the patterns of the skipped
        modules. The iterator raises BadCheckpoint if experts are missing, unequal, or belong to
        more than one layout.

    Raises:
        BadCheckpoint: An expert is not numbered 0, 1, 2 and so on.
        PlanRefused: No layout describes some experts, without `pass_through`.
    """
    known = catalog.names_to_weights(naming)
    modules, unknown = _modules(tensors, known)
    undescribed = _undescribed(unknown, modules, known, pass_through)
    found = (
        _module_experts(prefix, named, catalog, expert_counts)
        for prefix, named in modules.items()
        if pattern_of(prefix) not in undescribed
    )
    return found, undescribed


def _module_experts(
    prefix: str, found: _NamedTensors, catalog: Catalog, expert_counts: Mapping[str, int]
) -> ModuleExperts:
    """Return the experts of one module with every layout that fits them."""
    pattern = pattern_of(prefix)
    pairs, count = catalog.required_weight_pairs, expert_counts.get(pattern)
    candidates = tuple(_candidates(prefix, found, pairs, count))
    misfit = None if candidates else _misfit(prefix, found, pairs, count)
    return ModuleExperts(pattern, _shapes(found), candidates, misfit)


def _misfit(
    prefix: str, found: _NamedTensors, pairs: Sequence[WeightPair], count: int | None
) -> tuple[TensorInfo, TensorInfo] | None:
    """Return a companion without which a layout would fit, and its weight; None if there is none.

    `found` is what no layout fits with its companions.
    """
    required = {weight for pair in pairs for weight in pair}
    weights = {
        key: matches
        for key, matches in found.matches.items()
        if any(match.weight in required for match in matches)
    }
    bare = _NamedTensors(weights, {key: found.tensors[key] for key in weights})
    if not weights or not any(_candidates(prefix, bare, pairs, count)):
        return None
    owners = {stem_of(i.name): i for infos in bare.tensors.values() for i in infos.values()}
    return next(
        (
            (info, owners[stem_of(info.name)])
            for key, infos in found.tensors.items()
            for info in infos.values()
            if key not in weights and stem_of(info.name) in owners
        ),
        None,
    )


def stack_experts(choices: Iterable[Candidate]) -> tuple[Stack, ...]:
    """Group modules into stacks: those of one pattern, one layout, and the same dtypes.

    Raises BadCheckpoint if the sizes in a stack differ.
    """
    stacks: dict[tuple[str, NamedLayout, tuple[tuple[str, str], ...]], list[Candidate]] = {}
    for choice in choices:
        tensors = sorted(choice.module.tensors.items())
        dtypes = tuple((weight, infos[0].dtype) for weight, infos in tensors)
        stacks.setdefault((choice.pattern, choice.row, dtypes), []).append(choice)
    return tuple(
        Stack(pattern, row, _equal_sizes(alike), tuple(choice.module for choice in alike))
        for (pattern, row, _), alike in stacks.items()
    )


def _modules(
    tensors: Iterable[tuple[str, TensorInfo]], known: Mapping[str, tuple[NameMatch, ...]]
) -> tuple[dict[str, _NamedTensors], dict[str, TensorInfo]]:
    """Return the tensors of each module by its prefix, and the unknown ones below `experts.`."""
    modules: dict[str, _NamedTensors] = {}
    unknown: dict[str, TensorInfo] = {}
    keys: dict[str, str | None] = {}
    for name, info in tensors:
        pattern = pattern_of(name)
        if pattern not in keys:
            keys[pattern] = _key(pattern, known)
        key = keys[pattern]
        if key is None:
            if ".experts." in f".{name}":
                unknown[name] = info
            continue
        depth = key.count(".") + 1
        parts = name.split(".")
        tail = parts[-depth:]
        prefix = ".".join([*parts[:-depth], ""])
        module = modules.setdefault(prefix, _NamedTensors())
        module.matches[key] = known[key]
        digits = tail[key.split(".").index("*")] if "*" in key else None
        number = None if digits is None else _expert_number(name, digits)
        module.tensors.setdefault(key, {})[number] = info
    return modules, unknown


def _key(pattern: str, known: Mapping[str, tuple[NameMatch, ...]]) -> str | None:
    """Return the longest end of `pattern` that is a known name, or None."""
    parts = pattern.split(".")
    ends = (".".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if end in known), None)


def _expert_number(name: str, digits: str) -> int:
    if not digits.isascii() or len(digits) > 9 or str(int(digits)) != digits:
        raise BadCheckpoint(
            f"tensor {quoted(name)}: {quoted(digits)} is not how experts are numbered: 0, 1, 2"
        )
    return int(digits)


def _undescribed(
    unknown: Mapping[str, TensorInfo],
    modules: Mapping[str, _NamedTensors],
    known: Iterable[str],
    pass_through: bool,
) -> tuple[str, ...]:
    """Return the patterns of modules with an expert tensor that no layout describes.

    Such a tensor is numbered like an expert's, or its name begins like that of a weight. Raises
    PlanRefused at the first one without `pass_through`.
    """
    weights = tuple(key for key in known if "*" not in key)
    patterns: dict[str, None] = {}
    for name, info in unknown.items():
        start, _, below = f".{name}".rpartition(".experts.")
        prefix = f"{start}.".lstrip(".")
        if below.split(".")[0].isdigit() or f"experts.{below}".startswith(weights):
            if not pass_through:
                owner = _weight_of(info, modules.get(prefix))
                whose = f"{quoted(owner.name)} of an expert" if owner else "an expert"
                raise PlanRefused(
                    f"tensor {quoted(info.name)} belongs to {whose}, and no layout describes it",
                    "add --pass-through to leave such experts as they are, "
                    "or describe them with --family FILE",
                )
            patterns[pattern_of(prefix)] = None
    return tuple(patterns)


def _weight_of(companion: TensorInfo, module: _NamedTensors | None) -> TensorInfo | None:
    """Return the tensor of a module that has the stem of `companion`, or None."""
    stem = stem_of(companion.name)
    tensors = (
        info for infos in (module.tensors if module else {}).values() for info in infos.values()
    )
    return next((info for info in tensors if stem_of(info.name) == stem), None)


def _candidates(
    prefix: str, found: _NamedTensors, pairs: Sequence[WeightPair], count: int | None
) -> Iterator[Candidate]:
    """Yield each layout whose names and shapes the module has.

    `pairs` are the weights of which one pair is required; `count` is the number of experts if
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
        tensors = _complete(prefix, found, row, pairs)
        shapes = [((row.layout.templates[w],), infos[0].shape) for w, infos in tensors.items()]
        known = row.sizes()
        if any(EXPERT in row.layout.templates[weight].name_axes for weight in tensors):
            known[EXPERT] = 1 + max(found.expert_numbers())
        sizes = solve_sizes(shapes, known)
        if sizes is None and count is not None and EXPERT not in known:
            sizes = solve_sizes(shapes, {**known, EXPERT: count})
        if sizes is not None:
            yield Candidate(row, Module(prefix, tensors), sizes)


def _complete(
    prefix: str, found: _NamedTensors, row: NamedLayout, pairs: Sequence[WeightPair]
) -> dict[str, tuple[TensorInfo, ...]]:
    """Return the tensors of each weight of `row`, in order.

    Raises BadCheckpoint if an expected weight, expert or tensor is not among those found, or if
    the tensors of a weight are not alike.
    """
    by_weight = _by_position(found, row)
    required = next((pair for pair in pairs if any(w in by_weight for w in pair)), pairs[0])
    for weight in required:
        if weight not in by_weight:
            raise BadCheckpoint(
                f"{quoted(prefix)}experts has {quoted(', '.join(found.matches))}, "
                f"but no {_any_name(row, weight)}"
            )
    numbers = found.expert_numbers()
    count = 1 + max(numbers, default=-1)
    gap = next((number for number in range(count) if number not in numbers), None)
    if gap is not None:
        axes = row.layout.templates[required[0]].name_axes
        position = tuple(gap if axis == EXPERT else 0 for axis in axes)
        raise _missing(prefix, row, required[0], position, count)
    complete = {}
    for weight, infos in by_weight.items():
        expected = _positions(row, weight, count)
        missing = next((position for position in expected if position not in infos), None)
        if missing is not None:
            raise _missing(prefix, row, weight, missing, count)
        complete[weight] = tuple(infos[position] for position in expected)
        check_alike(list(complete[weight]))
    return complete


def _by_position(
    found: _NamedTensors, row: NamedLayout
) -> dict[str, dict[tuple[int | None, ...], TensorInfo]]:
    """Return the tensors by weight of `row`, and by position on the axes in their names."""
    by_weight: dict[str, dict[tuple[int | None, ...], TensorInfo]] = {}
    for key, matches in found.matches.items():
        match = next(m for m in matches if m.row == row)
        for number, info in found.tensors[key].items():
            position = tuple(number if at is None else at for at in match.position)
            by_weight.setdefault(match.weight, {})[position] = info
    return by_weight


def _positions(row: NamedLayout, weight: str, count: int) -> list[Position]:
    """Return all positions on the axes in the name of a weight, for `count` experts."""
    sizes = {**row.sizes(), EXPERT: count}
    axes = row.layout.templates[weight].name_axes
    return list(itertools.product(*(range(sizes[axis]) for axis in axes)))


def _missing(
    prefix: str, row: NamedLayout, weight: str, position: Position, count: int
) -> BadCheckpoint:
    name = quoted(prefix + row.name(row.layout.templates[weight], position))
    if count:
        return BadCheckpoint(f"tensor {name} is missing: there are experts 0 to {count - 1} here")
    return BadCheckpoint(f"tensor {name} is missing: its pair is here")


def _any_name(row: NamedLayout, weight: str) -> str:
    """Return the name of a weight's first tensor, with * for the expert's number."""
    return next(name for name, _ in row.names(row.layout.templates[weight]))


def _equal_sizes(choices: list[Candidate]) -> Mapping[str, int]:
    first = choices[0]
    for choice in choices:
        if choice.sizes != first.sizes:
            raise BadCheckpoint(
                f"{quoted(choice.module.prefix)}experts has {_show_sizes(choice.sizes)}, "
                f"{quoted(first.module.prefix)}experts has {_show_sizes(first.sizes)}: "
                "the layers of a stack have to be alike"
            )
    return first.sizes


def _show_sizes(sizes: Mapping[str, int]) -> str:
    return f"{sizes['e']} experts, intermediate {sizes['i']}, hidden {sizes['h']}"


def _shapes(found: _NamedTensors) -> str:
    firsts = {key: next(iter(infos.values())) for key, infos in found.tensors.items()}
    return ", ".join(f"{key} {list(info.shape)}" for key, info in sorted(firsts.items()))

"""The expert stacks of a checkpoint, found in its headers, and what is wrong with them. Pure.

Experts are found by the names of the layout table, ordered by number, and have to be complete: 0
to E-1 for every projection, equal in shape and dtype.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from streamconv.catalog.layouts import NamedLayout, Naming, required_weight_pairs
from streamconv.catalog.name_lookup import NameMatch, names_to_weights
from streamconv.catalog.templates import EXPERT, solve_sizes
from streamconv.checkpoint.types import TensorInfo, pattern_of
from streamconv.detection.stacks import Module, Stack, check_alike
from streamconv.errors import BadCheckpoint, PlanRefused, quoted

Position = tuple[int | None, ...]
Alike = tuple[tuple[str, str], ...]
"""The weights of a module and their dtypes, which all modules of a stack share."""
Settle = Callable[[str, tuple[NamedLayout, ...], str], NamedLayout]
"""Decides between the rows that fit the modules of a pattern; the text says what they look like."""
Counted = Callable[[str], int | None]
"""How many experts the config counts in the modules of a pattern; None where it does not."""


@dataclass(slots=True)
class _Found:
    """What stands below one prefix, while names are being read."""

    matches: dict[str, tuple[NameMatch, ...]]
    tensors: dict[str, dict[int | None, TensorInfo]]
    """By name below the prefix, with * for the expert's number, and by that number."""

    def numbers(self) -> set[int]:
        """The numbers of all experts."""
        return {k for infos in self.tensors.values() for k in infos if k is not None}


def find_stacks(
    names: Iterable[tuple[str, TensorInfo]],
    settle: Settle,
    counted: Counted,
    naming: Naming | None = None,
    undescribed: list[str] | None = None,
) -> tuple[Stack, ...]:
    """Every expert stack among tensors given with their hub names, in the order of their names.

    `naming` is the only one looked for, where one is given. Modules with expert tensors that no
    layout describes are left out and their patterns added to `undescribed`, where that is a list.
    Raises BadCheckpoint for experts that are missing, unequal or cannot be told apart, and
    PlanRefused for expert tensors that no layout describes.
    """
    stacks: dict[tuple[str, NamedLayout, Alike], list[tuple[Module, dict[str, int]]]] = {}
    modules, unknown = _modules(names, naming)
    left_out = _untold(unknown, naming, undescribed)
    for prefix, found in modules.items():
        pattern = pattern_of(prefix)
        if pattern in left_out:
            continue
        count = counted(pattern)
        fits = {row: (module, sizes) for row, module, sizes in _fitting(prefix, found, count)}
        row = settle(pattern, tuple(fits), _looks(found))
        module, sizes = fits[next(fit for fit in fits if fit.layout is row.layout)]
        alike = tuple((weight, infos[0].dtype) for weight, infos in module.tensors.items())
        stacks.setdefault((pattern, row, alike), []).append((module, sizes))
    return tuple(
        Stack(pattern, row, _equal_sizes(found), tuple(module for module, _ in found))
        for (pattern, row, _), found in stacks.items()
    )


def _modules(
    names: Iterable[tuple[str, TensorInfo]], naming: Naming | None
) -> tuple[dict[str, _Found], list[str]]:
    """What stands below each prefix that has tensors of experts, and names that say no more."""
    known = names_to_weights(naming)
    found: dict[str, _Found] = {}
    unknown: list[str] = []
    keys: dict[str, str | None] = {}
    for name, info in names:
        pattern = pattern_of(name)
        if pattern not in keys:
            keys[pattern] = _key(pattern, known)
        key = keys[pattern]
        if key is None:
            if ".experts." in f".{name}":
                unknown.append(name)
            continue
        depth = key.count(".") + 1
        parts = name.split(".")
        tail = parts[-depth:]
        prefix = ".".join([*parts[:-depth], ""])
        module = found.setdefault(prefix, _Found({}, {}))
        module.matches[key] = known[key]
        digits = tail[key.split(".").index("*")] if "*" in key else None
        number = None if digits is None else _expert_number(name, digits)
        module.tensors.setdefault(key, {})[number] = info
    return found, unknown


def _key(pattern: str, known: Mapping[str, tuple[NameMatch, ...]]) -> str | None:
    """The end of `pattern` that the table of layouts knows, or None."""
    parts = pattern.split(".")
    ends = (".".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if end in known), None)


def _expert_number(name: str, digits: str) -> int:
    if not digits.isascii() or len(digits) > 9 or str(int(digits)) != digits:
        raise BadCheckpoint(
            f"tensor {quoted(name)}: {quoted(digits)} is not how experts are numbered: 0, 1, 2"
        )
    return int(digits)


def _untold(unknown: list[str], naming: Naming | None, undescribed: list[str] | None) -> set[str]:
    """The patterns of modules that hold tensors of an expert or an expert weight which no layout
    moves; raises PlanRefused at the first one unless there is a list for them."""
    weights = tuple(key for key in names_to_weights(naming) if "*" not in key)
    found: dict[str, None] = {}
    for name in unknown:
        prefix, _, below = f".{name}".rpartition(".experts.")
        if below.split(".")[0].isdigit() or f"experts.{below}".startswith(weights):
            if undescribed is None:
                raise PlanRefused(
                    f"tensor {quoted(name)} belongs to an expert, and no layout says where it goes",
                    "--pass-through leaves such experts as they are; --family FILE describes them",
                )
            found[pattern_of(f"{prefix}.".lstrip("."))] = None
    if undescribed is not None:
        undescribed += found
    return {*found}


def _fitting(
    prefix: str, found: _Found, count: int | None
) -> Iterable[tuple[NamedLayout, Module, dict[str, int]]]:
    """The rows whose names and shapes the module has, with its tensors in that row's order.

    `count` is how many experts there are where shapes do not tell.
    """
    rows = dict.fromkeys(
        role.row
        for options in found.matches.values()
        for role in options
        if all(any(r.row == role.row for r in other) for other in found.matches.values())
    )
    if not rows:
        raise BadCheckpoint(
            f"{quoted(prefix)}experts holds tensors of more than one layout: "
            f"{quoted(', '.join(found.matches))}"
        )
    for row in rows:
        tensors = _complete(prefix, found, row)
        shapes = [((row.layout.templates[w],), infos[0].shape) for w, infos in tensors.items()]
        known = row.sizes()
        if any(EXPERT in row.layout.templates[weight].name_axes for weight in tensors):
            known[EXPERT] = 1 + max(found.numbers())
        sizes = solve_sizes(shapes, known)
        if sizes is None and count is not None and EXPERT not in known:
            sizes = solve_sizes(shapes, {**known, EXPERT: count})
        if sizes is not None:
            yield row, Module(prefix, tensors), sizes


def _complete(prefix: str, found: _Found, row: NamedLayout) -> dict[str, tuple[TensorInfo, ...]]:
    """The tensors of each weight of `row`, none missing, all alike."""
    weights: dict[str, dict[Position, str]] = {}
    for key, options in found.matches.items():
        role = next(r for r in options if r.row == row)
        weights.setdefault(role.weight, {})[role.position] = key
    body = next(
        (pair for pair in required_weight_pairs() if any(w in weights for w in pair)),
        required_weight_pairs()[0],
    )
    for weight in body:
        if weight not in weights:
            raise BadCheckpoint(
                f"{quoted(prefix)}experts has {quoted(', '.join(found.matches))}, "
                f"but no {_missing_name(row, weight)}"
            )
    numbers = found.numbers()
    count = 1 + max(numbers, default=-1)
    if len(numbers) < count:
        gap = next(number for number in range(count) if number not in numbers)
        at = tuple(gap if a == EXPERT else 0 for a in row.layout.templates[body[0]].name_axes)
        raise _missing(prefix, row, body[0], at, count)
    complete = {}
    for weight, keys in weights.items():
        axes = row.layout.templates[weight].name_axes
        spans = [range(count) if a == EXPERT else range(row.sizes()[a]) for a in axes]
        infos = []
        for position in itertools.product(*spans):
            number = position[axes.index(EXPERT)] if EXPERT in axes else None
            unnumbered = tuple(
                None if a == EXPERT else k for a, k in zip(axes, position, strict=True)
            )
            info = found.tensors.get(keys.get(unnumbered, ""), {}).get(number)
            if info is None:
                raise _missing(prefix, row, weight, position, count)
            infos.append(info)
        check_alike(infos)
        complete[weight] = tuple(infos)
    return complete


def _missing(
    prefix: str, row: NamedLayout, weight: str, position: tuple[int, ...], count: int
) -> BadCheckpoint:
    name = prefix + row.name(row.layout.templates[weight], position)
    there = f"there are experts 0 to {count - 1} here" if count else "its pair is here"
    return BadCheckpoint(f"tensor {quoted(name)} is missing: {there}")


def _missing_name(row: NamedLayout, weight: str) -> str:
    """What the first tensor of a weight would be called, with * for the expert's number."""
    return next(name for name, _ in row.names(row.layout.templates[weight]))


def _equal_sizes(found: list[tuple[Module, dict[str, int]]]) -> dict[str, int]:
    first, sizes = found[0]
    for module, other in found:
        if other != sizes:
            raise BadCheckpoint(
                f"{quoted(module.prefix)}experts has {_show_sizes(other)}, "
                f"{quoted(first.prefix)}experts has {_show_sizes(sizes)}: "
                "the layers of a stack have to be alike"
            )
    return sizes


def _show_sizes(sizes: Mapping[str, int]) -> str:
    return f"{sizes['e']} experts, intermediate {sizes['i']}, hidden {sizes['h']}"


def _looks(found: _Found) -> str:
    firsts = {key: next(iter(infos.values())) for key, infos in found.tensors.items()}
    return ", ".join(f"{key} {list(info.shape)}" for key, info in sorted(firsts.items()))

"""Find the modules that hold experts, by the names of their tensors."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from streamconv.catalog.catalog import Catalog
from streamconv.catalog.companions import stem_of
from streamconv.catalog.layouts import Naming
from streamconv.catalog.name_lookup import NameMatch
from streamconv.catalog.templates import EXPERTS
from streamconv.catalog.weight_kinds import MATRICES
from streamconv.checkpoint.tensor_names import (
    pattern_of,
    sort_naturally,
    split_at_last_number,
)
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.refusals import Refusals
from streamconv.errors import BadCheckpoint, PlanRefused, quoted


@dataclass(frozen=True, slots=True)
class NamedTensors:
    """The tensors of one module whose names are in the catalog."""

    matches: dict[str, tuple[NameMatch, ...]] = field(default_factory=dict)
    """Meanings of each name below the prefix, with * for the expert's number."""
    tensors: dict[str, dict[int | None, TensorInfo]] = field(default_factory=dict)
    """Tensors by the same name, then by the expert's number; None if it is not in the name."""

    def first(self, key: str) -> TensorInfo:
        """Return the tensor of this name that has the smallest number."""
        infos = self.tensors[key]
        for least in (None, 0):
            if least in infos:
                return infos[least]
        return infos[min(filter(None, infos))]

    def expert_numbers(self) -> set[int]:
        """Return the numbers of all experts that names have."""
        numbers = set[int | None]().union(*self.tensors.values())
        return {number for number in numbers if number is not None}


def find_modules(
    tensors: Iterable[tuple[str, TensorInfo]],
    known: Mapping[str, tuple[NameMatch, ...]],
    refusals: Refusals,
) -> tuple[dict[str, NamedTensors], dict[str, TensorInfo]]:
    """Return the tensors of each module by its prefix, and the unknown ones below `experts.`.

    The modules are sorted by name. Modules with an expert that is not numbered 0, 1, 2 and so on
    are refused.
    """
    modules: dict[str, NamedTensors] = {}
    unknown: dict[str, TensorInfo] = {}
    most_parts = _most_parts(known)
    # names that differ only in the expert's number are looked up once
    alike: dict[tuple[str, str], dict[int | None, TensorInfo]] = {}
    numbers: dict[str, int] = {}
    for name, info in tensors:
        # most names are those of numbered experts: two partitions take half the time of a split
        at = name.rfind(EXPERTS) + len(EXPERTS)
        digits, dot, after = name[at:].partition(".")
        found = alike.get((name[:at], dot + after)) if digits in numbers else None
        if found is not None:
            found[numbers[digits]] = info
            continue
        before, digits, after = split_at_last_number(name)
        found = alike.get((before, after))
        if found is None:
            key = _key(pattern_of(name), known, most_parts)
            if key is None:
                if ".experts." in f".{name}":
                    unknown[name] = info
                continue
            module = modules.setdefault(_prefix(name, key), NamedTensors())
            module.matches[key] = known[key]
            found = module.tensors.setdefault(key, {})
            if "*" not in key:
                found[None] = info
                continue
            alike[before, after] = found
        try:
            if digits not in numbers:
                numbers[digits] = _expert_number(name, digits)
            found[numbers[digits]] = info
        except BadCheckpoint as error:
            key = _key(pattern_of(name), known, most_parts) or ""
            refusals.add(pattern_of(_prefix(name, key)), error)
    return dict(sort_naturally(modules.items(), lambda item: item[0])), unknown


def _prefix(name: str, key: str) -> str:
    """Return the prefix of the module of a tensor whose known name is `key`."""
    parts = name.split(".")
    return ".".join([*parts[: -key.count(".") - 1], ""])


def _most_parts(known: Iterable[str]) -> int:
    """Return the number of parts, between dots, of the longest known name."""
    return max((key.count(".") + 1 for key in known), default=0)


def _key(pattern: str, known: Mapping[str, tuple[NameMatch, ...]], most_parts: int) -> str | None:
    """Return the longest end of `pattern` that is a known name, or None.

    No known name has more than `most_parts` parts. The pattern may have any number of them.
    """
    parts = pattern.rsplit(".", most_parts)[-most_parts:]
    ends = (".".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if end in known), None)


def _expert_number(name: str, digits: str) -> int:
    if not digits.isascii() or len(digits) > 9 or str(int(digits)) != digits:
        raise BadCheckpoint(
            f"tensor {quoted(name)}: {quoted(digits)} is not how experts are numbered: 0, 1, 2"
        )
    return int(digits)


def refuse_undescribed(
    unknown: Mapping[str, TensorInfo],
    modules: Mapping[str, NamedTensors],
    known: Iterable[str],
    refusals: Refusals,
) -> None:
    """Refuse the modules with an expert tensor that no layout describes.

    Such a tensor is numbered like an expert's, or its name begins like that of a weight.
    """
    if not unknown:
        return
    weights = tuple(key for key in known if "*" not in key)
    numbered = tuple(
        stem_of(key) for key in known if "*" in key and not key.startswith("experts.*")
    )
    for name, info in sort_naturally(unknown.items(), lambda item: item[0]):
        start, _, below = f".{name}".rpartition(".experts.")
        prefix = f"{start}.".lstrip(".")
        if (
            below.split(".")[0].isdigit()
            or f"experts.{below}".startswith(weights)
            or pattern_of(f"experts.{below}").startswith(numbered)
        ):
            pattern = pattern_of(prefix)
            if pattern in refusals:
                continue
            owner = _weight_of(info, modules.get(prefix))
            whose = f"{quoted(owner.name)} of an expert" if owner else "an expert"
            refusals.add(
                pattern,
                PlanRefused(
                    f"tensor {quoted(info.name)} belongs to {whose}, and no layout describes it",
                    "add --pass-through to leave such experts as they are, "
                    "or describe them with --family FILE",
                ),
            )


def _weight_of(companion: TensorInfo, module: NamedTensors | None) -> TensorInfo | None:
    """Return the tensor of a module that a companion belongs to by its stem, or None."""
    stem = stem_of(companion.name)
    tensors = (
        info for infos in (module.tensors if module else {}).values() for info in infos.values()
    )
    found = (info for info in tensors if stem_of(info.name) == stem)
    return min(found, key=lambda info: (len(info.name), info.name), default=None)


def naming_without_gate(tensors: Iterable[str], catalog: Catalog) -> Naming | None:
    """Return the naming of experts without a gate, if no tensor's name is that of a gate.

    None if there are gates, or no experts. For model types of no family: those of a family would
    be incomplete without their gates.

    Args:
        tensors: The hub names of all tensors.
        catalog: The layouts and namings to look for.
    """
    known = catalog.names_to_weights()
    most_parts = _most_parts(known)
    patterns = {pattern_of(name) for name in tensors}
    keys = {_key(pattern, known, most_parts) for pattern in patterns}
    projections = {
        _projection(match) for key in keys if key is not None for match in known[key]
    } - {None}
    if projections != {1}:
        return None
    single = (naming for naming in catalog.namings.values() if len(naming.tokens["p"]) == 1)
    return next(single, None)


def _projection(match: NameMatch) -> int | None:
    """Return 0 for a gate, 1 for up, and None for down; 0 as well for gate and up in one tensor."""
    if not match.weight.startswith(MATRICES[0]):
        return None
    axes = match.row.layout.templates[match.weight].name_axes
    return match.position[axes.index("p")] if "p" in axes else 0

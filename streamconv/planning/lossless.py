"""Check that a conversion loses nothing, and that all of it could be converted back."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from streamconv.catalog.companions import is_companion, stem_of
from streamconv.catalog.groups import Group
from streamconv.catalog.layouts import NamedLayout
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.detect import Detected
from streamconv.detection.group_names import GroupTensors
from streamconv.detection.layer_filter import LayerFilter
from streamconv.errors import BadCheckpoint, PlanRefused, quoted
from streamconv.planning.steps import Steps
from streamconv.planning.target import Target


def check_lossless(steps: Steps, source: Detected, target: Target, layers: range | None) -> None:
    """Check steps against their source.

    Args:
        steps: All steps of the conversion.
        source: The checkpoint that they convert.
        target: The layouts and names that it gets.
        layers: Numbers of the layers that are converted; None for all.

    Raises:
        PlanRefused: Two tensors would get one name, a name could not be converted back, a tensor
            would be separated from its weight, or bytes would be lost.
        BadCheckpoint: config.json lacks a size that a group needs.
    """
    layer_filter = LayerFilter.of(source.layer_lists, layers)
    _check_unique_names(steps, target)
    _check_reversible_names(source, target)
    _check_groups(source, target)
    _check_companions(steps, source, target)
    _check_bytes(steps, layer_filter.kept(source.hub_names).values())


def _check_unique_names(steps: Steps, target: Target) -> None:
    """Raise PlanRefused if two tensors have one name. Sorted by name, such steps are neighbors."""
    before = None
    for number in range(len(steps)):
        name = steps.name(number)
        if name == before:
            raise PlanRefused(
                f"two tensors would be called {quoted(name)} in the form "
                f"{target.names.name!r}, {quoted(steps[number].inputs[0].name)} is one of them"
            )
        before = name


def _check_reversible_names(source: Detected, target: Target) -> None:
    if not target.names.renames:
        return
    for hub_name, info in source.hub_names.items():
        if not target.names.is_reversible(hub_name):
            raise PlanRefused(
                f"tensor {quoted(info.name)} would be called "
                f"{quoted(target.names.apply(hub_name))} in the form {target.names.name!r}, and "
                "get another name when it is converted back",
                "rename it with --rename OLD=NEW, or name a layout instead of a form",
            )


def _check_groups(source: Detected, target: Target) -> None:
    """Check that converted groups are complete, and conflict with no tensor outside of groups."""
    stored = source.group_layouts()
    converted = {group: row for group, row in stored.items() if target.groups[row] != row}
    if not converted:
        return
    grouped = {
        info.name
        for stack in source.groups
        if target.layout_for(stack) != stack.row
        for module in stack.modules
        for infos in module.tensors.values()
        for info in infos
    }
    others = {name: info for name, info in source.hub_names.items() if info.name not in grouped}
    _check_sizes_known(others.items(), converted)
    _check_no_companions(source, converted, target)
    _check_names_free(others.items(), source, target)


_Tensors = Iterable[tuple[str, TensorInfo]]
"""Tensors with their hub names."""


def _check_sizes_known(others: _Tensors, converted: dict[Group, NamedLayout]) -> None:
    """Raise BadCheckpoint for a tensor of a group for which config.json lacks a size."""
    group_tensors = GroupTensors(converted)
    for name, info in others:
        found = group_tensors.find(name)
        if found is not None:
            raise BadCheckpoint(
                f"cannot divide tensor {quoted(info.name)}: config.json does not have "
                f"{found.group.required_config}",
                "convert to a layout instead of a form to leave it as it is",
            )


def _check_no_companions(
    source: Detected, converted: dict[Group, NamedLayout], target: Target
) -> None:
    """Raise PlanRefused for companions, such as scales, of a tensor in a converted group."""
    for group, info in source.companions_of_groups():
        if group in converted:
            raise PlanRefused(
                f"tensor {quoted(info.name)} belongs to one that the form {target.names.name!r} "
                "joins, splits or transposes, and no table says what becomes of it then",
                "convert to a layout instead of a form to leave both as they are, or add "
                "--pass-through, or --dequantize bf16 if it holds the scales of FP8 blocks",
            )


def _check_names_free(others: _Tensors, source: Detected, target: Target) -> None:
    """Raise PlanRefused for a tensor with a name that the form gives to a tensor of a group."""
    if target.names == source.names:
        return
    made = GroupTensors({group: group.form_layout for group in target.names.groups})
    for name, info in others:
        if made.find(name):
            raise PlanRefused(
                f"tensor {quoted(info.name)} has a name that the form {target.names.name!r} gives "
                "to a tensor that it makes of others"
            )


def _check_companions(steps: Steps, source: Detected, target: Target) -> None:
    """Raise PlanRefused if a copied tensor would be separated from its weight.

    That is so if the weight is rearranged, but the tensor is not; or if the weight is renamed, but
    the tensor keeps the old stem.
    """
    copied = [(source.hub_names[hub_name].name, hub_name) for hub_name in steps.copied]
    if not steps.converted and all(target.names.apply(hub) == name for name, hub in copied):
        return
    moved: dict[str, str] = {}
    stems: set[str] = set()
    for name, hub_name in copied:
        stem = stem_of(name)
        stems.add(stem)
        if target.names.apply(hub_name) != name and not is_companion(name):
            moved[stem] = name
    ordered = sorted(stems)
    rearranged: dict[str, str] = {}
    for each in steps.converted:
        names = [info.name for infos in each.module.tensors.values() for info in infos]
        if _may_share_a_stem(names, stems, ordered):
            rearranged |= {stem: name for name in names if (stem := stem_of(name)) in stems}
    for name, hub_name in copied:
        stem = stem_of(name)
        weight = rearranged.get(stem)
        if weight is None and is_companion(name):
            weight = moved.get(stem) if stem_of(target.names.apply(hub_name)) == stem else None
        if weight is not None:
            raise PlanRefused(
                f"tensor {quoted(name)} belongs to {quoted(weight)}, and {target.asked} would "
                "separate them: no table says what becomes of it",
                "convert to a layout instead of a form, or add --pass-through",
            )


def _may_share_a_stem(names: Sequence[str], stems: set[str], ordered: Sequence[str]) -> bool:
    """Return False if it is certain that none of the names begins with one of the stems.

    It is a quick check of the text that all names of a module begin with. For most modules of
    experts it saves looking up a thousand names.

    Args:
        names: The names of a module's tensors.
        stems: The stems of the tensors that are copied.
        ordered: The same, sorted.
    """
    first, last = min(names), max(names)
    size = next((k for k, pair in enumerate(zip(first, last, strict=False)) if len({*pair}) > 1), 0)
    common = first[:size]
    at = bisect_left(ordered, common)
    is_begin = any(common[:end] in stems for end in range(len(common)))
    return is_begin or (at < len(ordered) and ordered[at].startswith(common))


def _check_bytes(steps: Steps, expected: Iterable[TensorInfo]) -> None:
    """Raise PlanRefused if a tensor is not used, or if the output has more or fewer bytes."""
    before = sum(info.nbytes for info in expected)
    before += sum(each.stack.copied_bytes for each in steps.converted)
    after = sum(map(steps.nbytes, range(len(steps))))
    total = (
        f"{before} bytes of tensors would become {after}: a layout or family is described wrongly"
    )
    unused = next(
        (info for each in steps.converted for info in each.stack.unused(each.module)), None
    )
    if unused is not None:
        raise PlanRefused(f"tensor {quoted(unused.name)} would be lost; {total}")
    if before != after:
        raise PlanRefused(total)

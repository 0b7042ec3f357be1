"""Check that a conversion loses nothing, and that all of it could be converted back."""

from collections.abc import Iterable

from streamconv.catalog.families import Group
from streamconv.catalog.layouts import NamedLayout
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.detect import Detected
from streamconv.detection.layer_filter import LayerFilter
from streamconv.detection.tensor_groups import GroupTensors, groups_of
from streamconv.errors import BadCheckpoint, PlanRefused, quoted
from streamconv.planning.steps import Step
from streamconv.planning.target import Target


def check_lossless(
    steps: list[Step], source: Detected, target: Target, layers: range | None
) -> None:
    """Check steps against their source.

    Args:
        steps: All steps of the conversion.
        source: The checkpoint that they convert.
        target: The layouts and names that it gets.
        layers: Numbers of the layers that are converted; None for all.

    Raises:
        PlanRefused: Two tensors would get one name, a name could not be reverted, or bytes would
            be lost.
        BadCheckpoint: config.json lacks a size that a group needs.
    """
    layer_filter = LayerFilter.of(source.stacks, layers)
    _check_unique_names(steps, target)
    _check_reversible_names(source, target)
    _check_groups(source, target)
    _check_bytes(
        steps, [info for name, info in source.hub_names.items() if layer_filter.keeps(name)]
    )


def _check_unique_names(steps: list[Step], target: Target) -> None:
    seen: set[str] = set()
    for step in steps:
        if step.name in seen:
            raise PlanRefused(
                f"two tensors would be called {quoted(step.name)} in the form "
                f"{target.names.name!r}, {quoted(step.inputs[0].name)} is one of them"
            )
        seen.add(step.name)


def _check_reversible_names(source: Detected, target: Target) -> None:
    if not target.names.renames:
        return
    for hub_name, info in source.hub_names.items():
        if not target.names.is_reversible(hub_name):
            raise PlanRefused(
                f"tensor {quoted(info.name)} would not come back from the form "
                f"{target.names.name!r}, which knows it as {quoted(target.names.apply(hub_name))}"
            )


def _check_groups(source: Detected, target: Target) -> None:
    """Check the tensors that no group has, against the groups that are converted."""
    forms = source.family.forms if source.family else {}
    stored = {group: source.names.layout_for(group) for group in groups_of(forms)}
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
    _check_not_quantized(source, converted, target)
    _check_names_free(others.items(), source, target)


_Tensors = Iterable[tuple[str, TensorInfo]]
"""Tensors with their hub names."""


def _check_sizes_known(others: _Tensors, converted: dict[Group, NamedLayout]) -> None:
    """Raise BadCheckpoint for a tensor of a group that config.json does not say how to divide."""
    group_tensors = GroupTensors(converted)
    for name, info in others:
        found = group_tensors.find(name)
        if found is not None:
            raise BadCheckpoint(
                f"tensor {quoted(info.name)}: config.json has to say "
                f"{found.group.required_config}, which tells how it is divided",
                "convert to a layout instead of a form to leave it as it is",
            )


def _check_not_quantized(
    source: Detected, converted: dict[Group, NamedLayout], target: Target
) -> None:
    """Raise PlanRefused for scales or packed elements of a tensor in a group."""
    group_tensors = GroupTensors(converted)
    suffixes = [kind.suffix for kind in source.catalog.weight_kinds.values() if kind.suffix]
    for name, info in source.hub_names.items():
        stems = (name.removesuffix(suffix) for suffix in suffixes if name.endswith(suffix))
        if any(group_tensors.find(stem) for stem in stems):
            raise PlanRefused(
                f"tensor {quoted(info.name)} belongs to one that the form {target.names.name!r} "
                "joins, splits or transposes, which is impossible for quantized tensors: a cut "
                "could fall inside a block",
                "convert to a layout instead of a form to leave both as they are, or add "
                "--dequantize bf16 if the scales are those of FP8 blocks",
            )


def _check_names_free(others: _Tensors, source: Detected, target: Target) -> None:
    """Raise PlanRefused for a tensor whose name the form gives to a tensor that it makes."""
    if target.names == source.names:
        return
    made = GroupTensors({group: group.form_layout for group in target.names.groups})
    for name, info in others:
        if made.find(name):
            raise PlanRefused(
                f"tensor {quoted(info.name)} has a name that the form {target.names.name!r} gives "
                "to a tensor that it makes of others"
            )


def _check_bytes(steps: list[Step], expected: list[TensorInfo]) -> None:
    """Raise PlanRefused if a tensor is not used, or if the output has more or fewer bytes."""
    used = {info.name for step in steps for info in step.inputs}
    unused = next((info for info in expected if info.name not in used), None)
    before, after = sum(info.nbytes for info in expected), sum(step.nbytes for step in steps)
    total = (
        f"{before} bytes of tensors would become {after}: a layout or family is described wrongly"
    )
    if unused is not None:
        raise PlanRefused(f"tensor {quoted(unused.name)} would be lost; {total}")
    if before != after:
        raise PlanRefused(total)

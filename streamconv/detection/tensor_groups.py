"""Build the stacks of groups: tensors that a form joins, splits or transposes.

A group is found as a stack whose weights are the parts of the group. So everything that moves
experts moves groups as well.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from streamconv.catalog.families import HUB_NAMES, Form
from streamconv.catalog.groups import Group
from streamconv.catalog.layouts import NamedLayout
from streamconv.catalog.templates import Template, solve_sizes
from streamconv.checkpoint.config import config_value
from streamconv.checkpoint.tensor_names import pattern_of
from streamconv.checkpoint.types import Checkpoint, TensorInfo
from streamconv.detection.group_names import (
    GroupTensor,
    GroupTensors,
    Position,
    groups_of,
    templates_of,
)
from streamconv.detection.stacks import Module, Stack, check_alike
from streamconv.errors import BadCheckpoint, quoted


def find_groups(
    hub_names: Mapping[str, TensorInfo],
    layouts: Mapping[Group, NamedLayout],
    config: Mapping[str, Any],
) -> tuple[Stack, ...]:
    """Return the groups among tensors, as stacks.

    A group is left out if config.json lacks a size that its templates need.

    Args:
        hub_names: Every tensor by its hub name.
        layouts: The layout that each group is stored in.
        config: The content of config.json.

    Raises:
        BadCheckpoint: A tensor of a group is missing, or its shape contradicts the templates.
    """
    stacks: dict[tuple[Group, str, str, tuple[tuple[str, int], ...]], list[Module]] = {}
    for (group, prefix), tensors in _modules(hub_names, layouts).items():
        row = layouts[group]
        known = _known_sizes(group, row, config)
        if known is None:
            continue
        complete = _complete(row, known, prefix, tensors)
        sizes = _solve(row, known, complete)
        parts = {part: complete[t.name] for part, t in row.layout.templates.items()}
        dtype = next(iter(parts.values()))[0].dtype
        alike = (group, pattern_of(prefix), dtype, tuple(sizes.items()))
        stacks.setdefault(alike, []).append(Module(prefix, parts))
    return tuple(
        Stack(pattern, layouts[group], dict(sizes), tuple(modules), group.label)
        for (group, pattern, _, sizes), modules in stacks.items()
    )


def stored_groups(
    checkpoint: Checkpoint,
    forms: Mapping[str, Form],
    names: Form,
    hub_names: Mapping[str, TensorInfo],
) -> tuple[Stack, ...]:
    """Return every group, stored as in the form whose names its tensors have.

    That is the form `names`, except for tensors filled in from a template: they have the
    template's form.
    """
    template = checkpoint.template
    by_form = [(names, hub_names)]
    if template is not None:
        filled = {name: info for name, info in hub_names.items() if info.name in template.filled}
        own = {name: info for name, info in hub_names.items() if name not in filled}
        by_form = [(names, own), (forms.get(template.names, HUB_NAMES), filled)]
    return tuple(
        stack
        for form, tensors in by_form
        for stack in find_groups(
            tensors,
            {group: form.layout_for(group) for group in groups_of(forms)},
            checkpoint.config,
        )
    )


def names_of_group(
    tensor: GroupTensor, row: NamedLayout, config: Mapping[str, Any]
) -> Iterator[str] | None:
    """Return the hub names of all tensors of a group in the module of one of them.

    None if config.json lacks a size that its templates need, so that it is no group.

    Args:
        tensor: One of its tensors.
        row: The layout that it is stored in.
        config: The content of config.json.

    Raises:
        BadCheckpoint: config.json says that it has no such tensor.
    """
    known = _known_sizes(tensor.group, row, config)
    if known is None:
        return None
    template = next(each for each in templates_of(row) if each.name == tensor.template)
    sizes = [known[axis] for axis in template.name_axes]
    if any(at >= size for at, size in zip(tensor.position, sizes, strict=True)):
        name = quoted(tensor.prefix + row.name(template, tensor.position))
        raise BadCheckpoint(f"unexpected tensor {name}: config.json says {_show(known)}")
    return (
        tensor.prefix + row.name(template, position)
        for template in templates_of(row)
        for position in _positions(template, known)
    )


_Tensors = dict[tuple[str, Position], TensorInfo]
"""The tensors of a group in one module, by the name in their template and by position."""


def _modules(
    hub_names: Mapping[str, TensorInfo], layouts: Mapping[Group, NamedLayout]
) -> dict[tuple[Group, str], _Tensors]:
    """Return the tensors of groups by group and by the prefix of their module."""
    modules: dict[tuple[Group, str], _Tensors] = {}
    group_tensors = GroupTensors(layouts)
    for name, info in hub_names.items() if layouts else ():
        found = group_tensors.find(name)
        if found is not None:
            tensors = modules.setdefault((found.group, found.prefix), {})
            tensors[found.template, found.position] = info
    return modules


def _complete(
    row: NamedLayout, known: Mapping[str, int], prefix: str, tensors: _Tensors
) -> dict[str, tuple[TensorInfo, ...]]:
    """Return the tensors of a group in one module by the name in their template, in order.

    Raises BadCheckpoint if a tensor is missing, unexpected, or not like the others of its name.
    """
    complete = {}
    for template in templates_of(row):
        positions = _positions(template, known)
        missing = next((at for at in positions if (template.name, at) not in tensors), None)
        if missing is not None:
            name = quoted(prefix + row.name(template, missing))
            present = quoted(next(iter(tensors.values())).name)
            raise BadCheckpoint(f"tensor {name} is missing: {present}, of the same group, is here")
        complete[template.name] = tuple(
            tensors[template.name, at] for at in _positions(template, known)
        )
        check_alike(list(complete[template.name]), "tensors of one group")
    expected = {info.name for infos in complete.values() for info in infos}
    for info in tensors.values():
        if info.name not in expected:
            raise BadCheckpoint(
                f"unexpected tensor {quoted(info.name)}: config.json says {_show(known)}"
            )
    return complete


def _positions(template: Template, sizes: Mapping[str, int]) -> Iterator[Position]:
    """Yield all positions on the axes in a template's name.

    One by one, because a size from config.json may be absurd. `itertools.product` lists the ranges.
    """
    extents = [sizes[axis] for axis in template.name_axes]
    steps = [math.prod(extents[axis + 1 :]) for axis in range(len(extents))]
    for number in range(math.prod(extents)):
        yield tuple(number // step % n for step, n in zip(steps, extents, strict=True))


def _known_sizes(
    group: Group, row: NamedLayout, config: Mapping[str, Any]
) -> dict[str, int] | None:
    """Return the sizes given by the naming or config.json; None if config.json lacks one."""
    sizes = {axis: len(tokens) for axis, tokens in row.naming.tokens.items()}
    for axis, size in group.sizes:
        given = [size] if isinstance(size, int) else [config_value(config, path) for path in size]
        value = next((v for v in given if v is not None), None)
        if type(value) is not int or value < 1:
            return None
        sizes[axis] = value
    return sizes


def _solve(
    row: NamedLayout, known: Mapping[str, int], tensors: Mapping[str, tuple[TensorInfo, ...]]
) -> dict[str, int]:
    """Return the sizes of all axes, solved from the known ones and the shapes.

    Raises BadCheckpoint if no sizes fit the shapes, or if the dtypes differ.
    """
    parts = row.layout.templates.values()
    shapes = [
        (tuple(part for part in parts if part.name == name), infos[0].shape)
        for name, infos in tensors.items()
    ]
    sizes = solve_sizes(shapes, known)
    if sizes is None:
        info = next(iter(tensors.values()))[0]
        raise BadCheckpoint(
            f"tensor {quoted(info.name)} has the shape {list(info.shape)}, which is not that of "
            f"its group if {_show(known)}"
        )
    dtypes = {infos[0].dtype: infos[0].name for infos in tensors.values()}
    if len(dtypes) > 1:
        listed = ", ".join(f"{quoted(name)} is {dtype}" for dtype, name in dtypes.items())
        raise BadCheckpoint(f"tensors of one group have to be of one dtype: {listed}")
    return sizes


def _show(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{axis} = {size}" for axis, size in sizes.items())

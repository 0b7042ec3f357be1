"""Tensors beside the experts that a form joins, splits or turns, found in a checkpoint. Pure.

What is found is a stack whose weights are the parts of a group, so that everything that moves
experts moves it as well.
"""

import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from streamconv.catalog.families import Form, Group
from streamconv.catalog.layouts import NamedLayout
from streamconv.catalog.templates import Template, solve_sizes
from streamconv.checkpoint.types import TensorInfo, in_config, pattern_of
from streamconv.detection.stacks import Module, Stack, check_alike
from streamconv.errors import BadCheckpoint, quoted

Position = tuple[int, ...]
"""Positions on the axes in a tensor's name."""


@dataclass(frozen=True, slots=True)
class GroupTensor:
    """What a tensor's name makes it: one of the tensors of a group in a module."""

    group: Group
    prefix: str
    template: str
    """The name of the templates of its parts."""
    position: Position


def groups_of(forms: Mapping[str, Form]) -> tuple[Group, ...]:
    """Every group that one of the forms has, once."""
    return tuple(dict.fromkeys(group for form in forms.values() for group in form.groups))


class GroupTensors:
    """The tensors of groups that are stored in these rows, by their plain names."""

    def __init__(self, stored: Mapping[Group, NamedLayout]) -> None:
        self._ends = [(group, end) for group, row in stored.items() for end in _ends(row)]
        self._lasts = tuple({end.last for _, end in self._ends})

    def find(self, name: str) -> GroupTensor | None:
        """What `name` is; None where it is of none of the groups."""
        for group, end in self._ends if name.endswith(self._lasts) else ():
            match = end.pattern.search(name) if name.endswith(end.last) else None
            if match and fnmatchcase(name[: match.start()], group.where):
                numbers = map(int, match.groups())
                position = tuple(next(numbers) if k is None else k for k in end.position)
                return GroupTensor(group, name[: match.start()], end.template, position)
        return None


@dataclass(frozen=True, slots=True)
class _End:
    """How names of a group's tensors end."""

    template: str
    position: tuple[int | None, ...]
    """None on axes whose positions are numbers."""
    pattern: re.Pattern[str]
    last: str
    """What stands behind the last number: looking for it is cheaper than matching."""


_NUMBER = r"(0|[1-9][0-9]{0,8})"


@functools.cache
def _ends(row: NamedLayout) -> tuple[_End, ...]:
    ends = []
    for template in _tensors(row):
        for text, position in row.names(template):
            pattern = re.compile(_NUMBER.join(map(re.escape, text.split("*"))) + r"\Z")
            ends.append(_End(template.name, position, pattern, text.rpartition("*")[2]))
    return tuple(ends)


def _tensors(row: NamedLayout) -> Iterator[Template]:
    """A template of each name: several parts may have it."""
    yield from {template.name: template for template in row.layout.templates.values()}.values()


def find_groups(
    hub_names: Mapping[str, TensorInfo],
    stored: Mapping[Group, NamedLayout],
    config: Mapping[str, Any],
) -> tuple[Stack, ...]:
    """The groups among tensors by their plain names, each stored in its row of `stored`.

    One of which the config does not say what it has to is left out. Raises BadCheckpoint where a
    tensor of one is missing, or shapes contradict its templates.
    """
    found: dict[tuple[Group, str], dict[tuple[str, Position], TensorInfo]] = {}
    ours = GroupTensors(stored)
    for name, info in hub_names.items():
        member = ours.find(name)
        if member is not None:
            members = found.setdefault((member.group, member.prefix), {})
            members[member.template, member.position] = info
    stacks: dict[tuple[Group, str, str, tuple[tuple[str, int], ...]], list[Module]] = {}
    for (group, prefix), members in found.items():
        row = stored[group]
        known = _known(group, row, config)
        if known is None:
            continue
        infos = _complete(row, known, prefix, members)
        sizes = _sizes(row, known, infos)
        parts = {part: infos[t.name] for part, t in row.layout.templates.items()}
        dtype = next(iter(parts.values()))[0].dtype
        alike = (group, pattern_of(prefix), dtype, tuple(sizes.items()))
        stacks.setdefault(alike, []).append(Module(prefix, parts))
    return tuple(
        Stack(pattern, stored[group], dict(sizes), tuple(modules), group.what)
        for (group, pattern, _, sizes), modules in stacks.items()
    )


def _complete(
    row: NamedLayout,
    known: Mapping[str, int],
    prefix: str,
    members: Mapping[tuple[str, Position], TensorInfo],
) -> dict[str, tuple[TensorInfo, ...]]:
    """The tensors of a group in one module by their template, in order, none missing, all alike."""
    complete = {}
    left = {info.name: info for info in members.values()}
    for template in _tensors(row):
        infos = []
        for position in itertools.product(*(range(known[axis]) for axis in template.name_axes)):
            info = members.get((template.name, position))
            if info is None:
                name = prefix + row.name(template, position)
                there = quoted(next(iter(members.values())).name)
                raise BadCheckpoint(
                    f"tensor {quoted(name)} is missing: {there}, of the same group, is here"
                )
            infos.append(info)
            del left[info.name]
        check_alike(infos, "tensors of one group")
        complete[template.name] = tuple(infos)
    for name in left:
        raise BadCheckpoint(
            f"tensor {quoted(name)} is one too many: its group has {_said(known)} in config.json"
        )
    return complete


def _known(group: Group, row: NamedLayout, config: Mapping[str, Any]) -> dict[str, int] | None:
    """The sizes of axes that no shape is needed for; None where the config lacks one."""
    known = {axis: len(tokens) for axis, tokens in row.naming.tokens.items()}
    for axis, size in group.sizes:
        found = [size] if isinstance(size, int) else [in_config(config, place) for place in size]
        value = next((v for v in found if v is not None), None)
        if type(value) is not int or value < 1:
            return None
        known[axis] = value
    return known


def _sizes(
    row: NamedLayout, known: Mapping[str, int], infos: Mapping[str, tuple[TensorInfo, ...]]
) -> dict[str, int]:
    """The sizes of all axes, from those that are known and the shapes."""
    parts = row.layout.templates.values()
    shapes = [
        (tuple(part for part in parts if part.name == name), held[0].shape)
        for name, held in infos.items()
    ]
    sizes = solve_sizes(shapes, known)
    if sizes is None:
        held = next(iter(infos.values()))[0]
        raise BadCheckpoint(
            f"tensor {quoted(held.name)} has the shape {list(held.shape)}, which is not that of "
            f"its group where {_said(known)}"
        )
    dtypes = {held[0].dtype: held[0].name for held in infos.values()}
    if len(dtypes) > 1:
        said = ", ".join(f"{quoted(name)} is {dtype}" for dtype, name in dtypes.items())
        raise BadCheckpoint(f"tensors of one group have to be of one dtype: {said}")
    return sizes


def _said(known: Mapping[str, int]) -> str:
    return ", ".join(f"{axis} = {size}" for axis, size in known.items())

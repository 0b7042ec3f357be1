"""Tensors beside the experts that a form joins, splits or turns, found in a checkpoint. Pure.

What is found is a stack of one weight, so that everything that moves experts moves it as well.
"""

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from streamconv.axes import solve_sizes
from streamconv.checkpoint import TensorInfo, pattern_of
from streamconv.errors import BadCheckpoint, quoted
from streamconv.experts import Module, Stack, check_alike
from streamconv.families import WEIGHT, Form, Group
from streamconv.layouts import Row

Position = tuple[int, ...]
"""Positions on the axes in a tensor's name."""


@dataclass(frozen=True, slots=True)
class Member:
    """What a tensor's name makes it: one of the tensors of a group in a module."""

    group: Group
    prefix: str
    position: Position


def groups_of(forms: Mapping[str, Form]) -> tuple[Group, ...]:
    """Every group that one of the forms has, once."""
    return tuple(dict.fromkeys(group for form in forms.values() for group in form.groups))


def member_of(name: str, stored: Mapping[Group, Row]) -> Member | None:
    """What `name` is under groups that are stored in these rows; None where it is none of them."""
    for group, row in stored.items():
        for tail, position in _tails(row).items():
            prefix = name.removesuffix(tail)
            if prefix != name and fnmatchcase(prefix, group.where):
                return Member(group, prefix, position)
    return None


@functools.cache
def _tails(row: Row) -> Mapping[str, Position]:
    """How the names of a group's tensors end, in their order."""
    template = row.layout.templates[WEIGHT]
    spans = [range(len(row.naming.tokens[axis])) for axis in template.name_axes]
    tails = {}
    for position in itertools.product(*spans):
        at = zip(template.name_axes, position, strict=True)
        tails[template.tensor_name({axis: row.token(axis, k) for axis, k in at})] = position
    return tails


def find_groups(
    hub_names: Mapping[str, TensorInfo], stored: Mapping[Group, Row], config: Mapping[str, Any]
) -> tuple[Stack, ...]:
    """The groups among tensors by their plain names, each stored in its row of `stored`.

    Raises BadCheckpoint where a tensor of one is missing, or shapes contradict its template.
    """
    found: dict[tuple[Group, str], dict[Position, TensorInfo]] = {}
    for name, info in hub_names.items() if stored else ():
        member = member_of(name, stored)
        if member is not None:
            found.setdefault((member.group, member.prefix), {})[member.position] = info
    stacks: dict[tuple[Group, str, tuple[tuple[str, int], ...]], list[Module]] = {}
    for (group, prefix), members in found.items():
        row = stored[group]
        infos = _complete(row, prefix, members)
        sizes = _sizes(group, row, infos[0], config)
        module = Module(prefix, {WEIGHT: infos})
        stacks.setdefault((group, pattern_of(prefix), tuple(sizes.items())), []).append(module)
    return tuple(
        Stack(pattern, stored[group], dict(sizes), tuple(modules), group.what)
        for (group, pattern, sizes), modules in stacks.items()
    )


def _complete(
    row: Row, prefix: str, members: Mapping[Position, TensorInfo]
) -> tuple[TensorInfo, ...]:
    """The tensors of a group in one module, in order, none missing, all alike."""
    for tail, position in _tails(row).items():
        if position not in members:
            there = quoted(next(iter(members.values())).name)
            raise BadCheckpoint(
                f"tensor {quoted(prefix + tail)} is missing: {there}, of the same group, is here"
            )
    infos = [members[position] for position in _tails(row).values()]
    check_alike(infos, "tensors of one group")
    return tuple(infos)


def _sizes(group: Group, row: Row, info: TensorInfo, config: Mapping[str, Any]) -> dict[str, int]:
    """The sizes of all axes, from the config and the shape."""
    known = {axis: len(tokens) for axis, tokens in row.naming.tokens.items()}
    for axis, size in group.sizes:
        value = size if isinstance(size, int) else _in_config(config, size)
        if type(value) is not int or value < 1:
            raise BadCheckpoint(
                f"tensor {quoted(info.name)}: config.json has to say {size}, which tells how its "
                "rows are ordered"
            )
        known[axis] = value
    sizes = solve_sizes({row.layout.templates[WEIGHT]: info.shape}, known)
    if sizes is None:
        said = ", ".join(f"{axis} = {size}" for axis, size in known.items())
        raise BadCheckpoint(
            f"tensor {quoted(info.name)} has the shape {list(info.shape)}, which is not that of "
            f"its group where {said}"
        )
    return sizes


def _in_config(config: Mapping[str, Any], path: str) -> object:
    value: Any = config
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value

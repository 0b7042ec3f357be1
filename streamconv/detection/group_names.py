"""Find the tensors of groups by their names.

A group is several tensors next to the experts that a form joins, splits or transposes.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from streamconv.catalog.companions import is_companion, possible_weights
from streamconv.catalog.families import Form
from streamconv.catalog.groups import Group
from streamconv.catalog.layouts import NamedLayout
from streamconv.catalog.templates import Template
from streamconv.checkpoint.types import TensorInfo

Position = tuple[int, ...]
"""Positions on the axes in a tensor's name."""


@dataclass(frozen=True, slots=True)
class GroupTensor:
    """One of the tensors of a group in a module, as its name says."""

    group: Group
    prefix: str
    template: str
    """Name in the templates of its parts."""
    position: Position


def groups_of(forms: Mapping[str, Form]) -> tuple[Group, ...]:
    """Return every group of the forms once."""
    return tuple(dict.fromkeys(group for form in forms.values() for group in form.groups))


class GroupTensors:
    """Finds the tensors of groups by hub name, given the layout that each group is stored in."""

    def __init__(self, layouts: Mapping[Group, NamedLayout]) -> None:
        self._endings = [(group, end) for group, row in layouts.items() for end in _endings(row)]
        self._tails = tuple({end.tail for _, end in self._endings})

    def find(self, name: str) -> GroupTensor | None:
        """Return the tensor of a group that `name` is, or None."""
        for group, end in self._endings if name.endswith(self._tails) else ():
            match = end.pattern.search(name) if name.endswith(end.tail) else None
            if match and fnmatchcase(name[: match.start()], group.where):
                numbers = map(int, match.groups())
                position = tuple(next(numbers) if k is None else k for k in end.position)
                return GroupTensor(group, name[: match.start()], end.template, position)
        return None


def companions_of_groups(
    hub_names: Mapping[str, TensorInfo], layouts: Mapping[Group, NamedLayout]
) -> Iterator[tuple[Group, TensorInfo]]:
    """Yield each companion of a group's tensor that is in no group itself, with that group.

    Args:
        hub_names: Every tensor by its hub name.
        layouts: The layout that each group is stored in.
    """
    group_tensors = GroupTensors(layouts)
    for name, info in hub_names.items() if layouts else ():
        if is_companion(name) and not group_tensors.find(name):
            found = (group_tensors.find(weight) for weight in possible_weights(name))
            owner = next(filter(None, found), None)
            if owner is not None:
                yield owner.group, info


@dataclass(frozen=True, slots=True)
class _Ending:
    """How the names of a group's tensors end."""

    template: str
    position: tuple[int | None, ...]
    """Positions on the axes in the name; None for those that are numbers."""
    pattern: re.Pattern[str]
    tail: str
    """The text after the last number: comparing it is cheaper than matching the pattern."""


_NUMBER = r"(0|[1-9][0-9]{0,8})"


@functools.cache
def _endings(row: NamedLayout) -> tuple[_Ending, ...]:
    endings = []
    for template in templates_of(row):
        for text, position in row.names(template):
            pattern = re.compile(_NUMBER.join(map(re.escape, text.split("*"))) + r"\Z")
            endings.append(_Ending(template.name, position, pattern, text.rpartition("*")[2]))
    return tuple(endings)


def templates_of(row: NamedLayout) -> Iterator[Template]:
    """Yield one template for each name: parts of one tensor share a name."""
    yield from {template.name: template for template in row.layout.templates.values()}.values()

"""Groups: tensors next to the experts that a form joins, splits or permutes."""

import math
from dataclasses import dataclass
from typing import Any

from streamconv.catalog.frozen_map import FrozenMap
from streamconv.catalog.layouts import Layout, NamedLayout, Naming
from streamconv.catalog.templates import Template
from streamconv.errors import UsageError

SIDES = ("hub_name", "form_name")
"""The fields of the two sides of a rename or group."""
MAX_NAMES = 1000
"""Names of the tensors of a group, with `*` for numbers. Shipped ones have 4 or fewer."""


@dataclass(frozen=True)
class Group:
    """Tensors of a module that a form joins, splits or permutes.

    For example, the convolutions of query, key and value, which are one tensor in transformers.
    Each part has a template on either side. Parts of one name are concatenated in one tensor. A
    checkpoint has the layout of the form whose names its tensors have.
    """

    where: str
    """Pattern of the modules' prefixes, in hub names."""
    hub_layout: NamedLayout
    """The parts under hub names: each is a weight, called by its number."""
    form_layout: NamedLayout
    """The same parts in the form."""
    sizes: tuple[tuple[str, int | tuple[str, ...]], ...] = ()
    """Axes whose size does not follow from shapes: the size, or the paths in config.json to it."""

    @property
    def label(self) -> str:
        """Names of the group's tensors below their module, for messages."""
        return ", ".join(dict.fromkeys(t.name for t in self.hub_layout.layout.templates.values()))

    @property
    def required_config(self) -> str:
        """The paths in config.json that have to exist, for messages."""
        paths = (size for _, size in self.sizes if not isinstance(size, int))
        return " and ".join(dict.fromkeys(" or ".join(several) for several in paths))


def read_group(row: dict[str, Any]) -> Group:
    """Read a group. Raises UsageError if its two sides do not have the same axes."""
    parts = row.get("parts") or [row]
    if not all(side in part for part in parts for side in SIDES):
        raise UsageError(
            f"cannot use the group in {row['where']!r}: it has no names in both forms",
            "give it hub_name and form_name, or parts that have them",
        )
    lists = {axis: tuple(t) for axis, t in row.items() if isinstance(t, list) and t is not parts}
    naming = Naming(row["where"], FrozenMap(lists))
    sizes = {
        axis: size if isinstance(size, int) else (size,) if isinstance(size, str) else tuple(size)
        for axis, size in row.get("sizes", {}).items()
    }
    in_hub, in_form = (
        {str(k): Template.parse(part[side]) for k, part in enumerate(parts)} for side in SIDES
    )
    for one, other in zip(in_hub.values(), in_form.values(), strict=True):
        unnamed = {*one.name_axes, *other.name_axes} - {*lists, *sizes}
        if {*one.name_axes, *one.axes} != {*other.name_axes, *other.axes} or unnamed:
            raise UsageError(
                f"cannot use the group of {str(one)!r} and {str(other)!r}: its row does not settle "
                "every axis",
                "give both sides the same axes, and each axis of a name a list of texts, or its "
                "number of positions in `sizes`",
            )
    names = {each.name: each for each in (*in_hub.values(), *in_form.values())}.values()
    if sum(math.prod(len(lists.get(a, "1")) for a in each.name_axes) for each in names) > MAX_NAMES:
        raise UsageError(
            f"cannot use the group in {row['where']!r}: it has over {MAX_NAMES:,} names",
            "list fewer texts for the axes in its names",
        )
    return Group(
        where=row["where"],
        hub_layout=NamedLayout(Layout("hub", "", FrozenMap(in_hub)), naming),
        form_layout=NamedLayout(Layout("form", "", FrozenMap(in_form)), naming),
        sizes=tuple(sizes.items()),
    )

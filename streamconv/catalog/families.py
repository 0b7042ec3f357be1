"""Families of models and the forms in which ecosystems store them: rows of `data/families.toml`.

A form is a layout for each expert stack that it mentions, groups of other tensors that it joins,
splits or turns, and renames between plain names and its own. Plain names are the hub's, but that
experts and groups are called what their templates call them: where the hub calls them otherwise,
its own form has renames as well. Whatever a form does not mention stays as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

from streamconv.catalog.layouts import Layout, NamedLayout, Naming, find_layout
from streamconv.catalog.renames import Rename, read_rename
from streamconv.catalog.templates import Template
from streamconv.errors import UsageError

FORMS = ("hub", "transformers", "mindspeed")
"""As published; as transformers v5 holds it in memory; as MindSpeed-MM trains it."""

COUNT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""What configs call the number of experts, tried in this order."""


@dataclass(frozen=True)
class Group:
    """Tensors of a module that a form joins, splits or turns: two templates of each part.

    The convolutions of query, key and value in one tensor, for example. Parts that have one name
    stand in one tensor, one behind the other. Which of the two a checkpoint has goes by the form
    whose names it has.
    """

    where: str
    """Pattern of the modules' prefixes, in plain names."""
    hub_layout: NamedLayout
    form_layout: NamedLayout
    """A weight of the layout is a part, called by its number."""
    sizes: tuple[tuple[str, int | tuple[str, ...]], ...] = ()
    """Sizes of axes that shapes leave open, or where in config.json they may stand."""

    @property
    def what(self) -> str:
        """What it is called in messages, below the prefix of its module."""
        return ", ".join(dict.fromkeys(t.name for t in self.hub_layout.layout.templates.values()))

    @property
    def asks(self) -> str:
        """What config.json has to say for it to be told."""
        places = (size for _, size in self.sizes if not isinstance(size, int))
        return " and ".join(dict.fromkeys(" or ".join(several) for several in places))


@dataclass(frozen=True)
class Form:
    """How one ecosystem stores a family."""

    name: str
    layouts: tuple[tuple[str, Layout], ...]
    """Pattern of a stack in hub names, and the layout it has here; the first fit wins."""
    renames: tuple[Rename, ...] = ()
    groups: tuple[Group, ...] = ()

    def layout_of(self, stack: str) -> Layout | None:
        """The layout of the stack at this pattern of hub names; None where it stays as it is."""
        return next((lay for glob, lay in self.layouts if fnmatchcase(stack, glob)), None)

    def layout_for(self, group: Group) -> NamedLayout:
        """How a group of the family is stored here: plainly, unless the form has it."""
        return group.form_layout if group in self.groups else group.hub_layout

    def apply(self, name: str) -> str:
        """The name here of what is plainly called `name`: by one rename after the other."""
        for rename in self.renames:
            new = rename.apply(name) if rename.hub_name_mark in name else None
            name = name if new is None else new
        return name

    def undo(self, name: str) -> str:
        """The plain name of what is called `name` here: by the same renames, the last one first."""
        for rename in reversed(self.renames):
            old = rename.undo(name) if rename.form_name_mark in name else None
            name = name if old is None else old
        return name

    def is_reversible(self, hub_name: str) -> bool:
        """Whether the name comes back from here as it was."""
        return self.undo(self.apply(hub_name)) == hub_name


@dataclass(frozen=True)
class Family:
    """Model types that are stored alike."""

    name: str
    model_types: tuple[str, ...]
    naming: Naming
    stacks: Mapping[str, str]
    """Pattern of each stack in hub names, and the section of config.json that describes it."""
    forms: Mapping[str, Form]
    merge: str
    """The form that merging makes of it."""
    without: Mapping[str, str]
    """Forms that its ecosystem has and rows cannot describe, to the reason."""
    refused: str = ""
    """Why its experts cannot be converted, where they cannot."""
    transformers_model_type: str = ""
    """The model type whose class in transformers holds it, where there is none of its own name."""

    def layout_for(self, stack: str, form: Form) -> NamedLayout | None:
        """The layout and naming of a stack in one of the forms; None where it stays as it is."""
        layout = form.layout_of(stack)
        return None if layout is None else NamedLayout(layout, self.naming)


HUB_NAMES = Form("hub", ())
"""The form of a checkpoint of no known family: nothing is renamed, nothing is mentioned."""


def read_family(
    name: str,
    row: Mapping[str, Any],
    layouts: Mapping[str, Layout],
    namings: Mapping[str, Naming],
) -> Family:
    """Read a row of the table `families`, which may name any of the layouts and namings.

    Raises UsageError for an unknown layout and for a rename or group that could not be undone,
    KeyError for a missing field or an unknown naming, and TypeError, AttributeError, ValueError or
    StopIteration if a field has another type than it has to have.
    """
    forms = {form: _form(form, row[form], layouts) for form in FORMS if form in row}
    return Family(
        name=name,
        model_types=tuple(row["model_types"]),
        naming=namings[row["naming"]] if "naming" in row else next(iter(namings.values())),
        stacks=MappingProxyType(dict(row["stacks"])),
        forms=MappingProxyType(forms),
        merge=row["merge"] if "merge" in row else next(f for f in FORMS[1:] if f in forms),
        without=MappingProxyType(dict(row.get("without", {}))),
        refused=row.get("refused", ""),
        transformers_model_type=row.get("transformers_model_type", ""),
    )


def _form(name: str, row: Mapping[str, Any], layouts: Mapping[str, Layout]) -> Form:
    return Form(
        name=name,
        layouts=tuple((glob, find_layout(layouts, name)) for glob, name in row["layouts"].items()),
        renames=tuple(read_rename(r) for r in row.get("renames", ())),
        groups=tuple(_group(g) for g in row.get("groups", ())),
    )


def _group(row: dict[str, Any]) -> Group:
    parts = row.get("parts", [row])
    lists = {axis: tuple(t) for axis, t in row.items() if isinstance(t, list) and t is not parts}
    naming = Naming(row["where"], MappingProxyType(lists))
    sizes = {
        axis: size if isinstance(size, int) else (size,) if isinstance(size, str) else tuple(size)
        for axis, size in row.get("sizes", {}).items()
    }
    in_hub, in_form = (
        {str(k): Template.parse(part[side]) for k, part in enumerate(parts)}
        for side in ("hub_name", "form_name")
    )
    for one, other in zip(in_hub.values(), in_form.values(), strict=True):
        unnamed = {*one.name_axes, *other.name_axes} - {*lists, *sizes}
        if {*one.name_axes, *one.axes} != {*other.name_axes, *other.axes} or unnamed:
            raise UsageError(
                f"the group of {str(one)!r} and {str(other)!r} is not told by its row",
                "both sides have the same axes, and for one that stands in a name a list says "
                "what stands there, or `sizes` how many numbers",
            )
    return Group(
        where=row["where"],
        hub_layout=NamedLayout(Layout("hub", "", MappingProxyType(in_hub)), naming),
        form_layout=NamedLayout(Layout("form", "", MappingProxyType(in_form)), naming),
        sizes=tuple(sizes.items()),
    )

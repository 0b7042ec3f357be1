"""Families of models and the forms in which ecosystems store them: rows of `data/families.toml`.

A form has three parts:

- a layout for each expert stack that it changes;
- groups: other tensors that it joins, splits or permutes;
- renames between hub names and its own.

Whatever a form does not mention stays as it is. Hub names are those of the hub, with one exception:
experts and groups have the names of their templates. If the hub names them otherwise, the form
`hub` has renames too.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from streamconv.catalog.frozen_map import FrozenMap
from streamconv.catalog.groups import Group, read_group
from streamconv.catalog.layouts import Layout, NamedLayout, Naming, find_layout
from streamconv.catalog.renames import Rename, read_rename
from streamconv.errors import UsageError

SAME = "same"
"""The target that is neither a form nor a layout: all layouts and names stay."""
FORMS = ("hub", "transformers", "mindspeed")
"""The forms: as published, as transformers v5 has it in memory, as MindSpeed-MM trains it."""

COUNT_KEYS = (
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_num_experts",
    "moe_num_primary_experts",
)
"""Keys of config.json that count experts, in the order in which they are tried."""


@dataclass(frozen=True)
class Form:
    """How one ecosystem stores a family."""

    name: str
    layouts: tuple[tuple[str, tuple[Layout, ...]], ...]
    """Patterns of stacks in hub names, and the layouts that such stacks can have in this form.

    The first pattern that fits wins. Of several layouts, a stack gets the one that it was made from
    by its record, else keeps its own, else gets the first.
    """
    renames: tuple[Rename, ...] = ()
    groups: tuple[Group, ...] = ()

    def __repr__(self) -> str:
        return f"<Form {self.name}>"

    def layouts_of(self, stack: str) -> tuple[Layout, ...]:
        """Return the layouts that the stack with this pattern can have; empty if any can stay."""
        return next((layouts for glob, layouts in self.layouts if fnmatchcase(stack, glob)), ())

    def layout_of(self, stack: str) -> Layout | None:
        """Return the first layout of the stack with this pattern, or None if it stays as it is."""
        return next(iter(self.layouts_of(stack)), None)

    def layout_for(self, group: Group) -> NamedLayout:
        """Return the layout of a group in this form: the hub's, unless the form has the group."""
        return group.form_layout if group in self.groups else group.hub_layout

    def apply(self, name: str) -> str:
        """Return the name in this form for a hub name, by applying all renames in order."""
        for rename in self.renames:
            new = rename.apply(name) if rename.hub_name_mark in name else None
            name = name if new is None else new
        return name

    def renames_of(self, hub_name: str) -> Iterator[Rename]:
        """Yield the renames that `apply` makes for a hub name."""
        name = hub_name
        for rename in self.renames:
            new = rename.apply(name) if rename.hub_name_mark in name else None
            if new is not None:
                yield rename
                name = new

    def undo(self, name: str) -> str:
        """Return the hub name for a name in this form, by undoing all renames in reverse order."""
        for rename in reversed(self.renames):
            old = rename.undo(name) if rename.form_name_mark in name else None
            name = name if old is None else old
        return name

    def is_reversible(self, hub_name: str) -> bool:
        """Return True if `undo` turns the name that `apply` returns into this hub name again."""
        return self.undo(self.apply(hub_name)) == hub_name


@dataclass(frozen=True)
class Family:
    """Model types with the same stacks and the same forms."""

    name: str
    model_types: tuple[str, ...]
    naming: Naming
    stacks: Mapping[str, str]
    """Section of config.json that describes each stack, by its pattern in hub names."""
    forms: Mapping[str, Form]
    merge: str
    """The form or layout that `merge` converts to."""
    without: Mapping[str, str]
    """Reasons why the tables cannot describe a form, by the name of the form."""
    aliases: tuple[Rename, ...] = ()
    """Other names that some programs save, as the `form_name` of renames from hub names."""
    refused: str = ""
    """Why its experts cannot be converted; empty if they can."""
    transformers_model_type: str = ""
    """The model type of the family in transformers, if that is not one of `model_types`."""
    routers: tuple[str, ...] = ()
    """Endings of the hub names of routers' tensors; empty if the general table has them all."""
    fp32: tuple[str, ...] = ()
    """Parts of the names, in any form, of tensors that transformers keeps in fp32."""
    single_experts: tuple[str, ...] = ()
    """Values of `quant_method` with which transformers has quantized experts one by one, though it
    has plain ones merged only."""
    next_to_experts: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Patterns of model types, each with patterns of names: of the tensors that are in a module
    with experts, but are not experts.

    The first pattern that fits a model type wins. If none fits, the names are not known.
    """

    def __repr__(self) -> str:
        return f"<Family {self.name}: {len(self.model_types)} model types>"

    def names_next_to_experts(self, model_type: str) -> tuple[str, ...]:
        """Return the patterns of names next to experts for a model type; empty if unknown."""
        rows = self.next_to_experts
        return next((names for glob, names in rows if fnmatchcase(model_type, glob)), ())

    def layout_for(self, stack: str, form: Form) -> NamedLayout | None:
        """Return the layout and naming of a stack in a form, or None if it stays as it is."""
        return next(iter(self.layouts_for(stack, form)), None)

    def resolve_alias(self, name: str) -> str:
        """Return the hub name for a hub name or an alias of one."""
        for alias in self.aliases:
            found = alias.undo(name) if alias.form_name_mark in name else None
            name = name if found is None else found
        return name

    def layouts_for(self, stack: str, form: Form) -> tuple[NamedLayout, ...]:
        """Return every layout that a stack can have in a form, with its naming."""
        return tuple(NamedLayout(layout, self.naming) for layout in form.layouts_of(stack))

    def names_in_forms(self, name: str) -> frozenset[str]:
        """Return `name`, from whichever form, and the names of that tensor in every form."""
        forms = self.forms.values()
        hub_names = {form.undo(name) for form in forms}
        return frozenset({name, *(form.apply(n) for form in forms for n in hub_names)})


HUB_NAMES = Form("hub", ())
"""The form of a checkpoint of no known family: it changes nothing."""


def read_family(
    name: str,
    row: Mapping[str, Any],
    layouts: Mapping[str, Layout],
    namings: Mapping[str, Naming],
) -> Family:
    """Read a row of the table `families`, which may name any of the layouts and namings.

    The row has passed the checks of `row_fields`.

    Raises UsageError for an unknown layout or naming, for a rename or group that could not be
    undone, and if there is no form or layout to merge to.
    """
    forms = {form: _form(form, row[form], layouts) for form in FORMS if form in row}
    merge = row.get("merge") or next((form for form in FORMS[1:] if form in forms), None)
    if merge is None:
        raise UsageError(
            f"cannot use the family {name!r}: it has neither merge, nor a form to merge to",
            "give it the form transformers or mindspeed with its layouts",
        )
    if merge not in forms:
        find_layout(layouts, merge)
    if row.get("naming", next(iter(namings))) not in namings:
        raise UsageError(
            f"cannot use the family {name!r}: there is no naming called {row['naming']!r}",
            f"choose from {', '.join(namings)}",
        )
    return Family(
        name=name,
        model_types=tuple(row["model_types"]),
        naming=namings[row["naming"]] if "naming" in row else next(iter(namings.values())),
        stacks=FrozenMap(dict(row["stacks"])),
        forms=FrozenMap(forms),
        merge=merge,
        without=FrozenMap(dict(row.get("without", {}))),
        aliases=tuple(read_rename(r) for r in row.get("aliases", ())),
        refused=row.get("refused", ""),
        transformers_model_type=row.get("transformers_model_type", ""),
        routers=tuple(row.get("routers", ())),
        fp32=tuple(row.get("fp32", ())),
        single_experts=tuple(row.get("single_experts", ())),
        next_to_experts=tuple((g, tuple(n)) for g, n in row.get("next_to_experts", {}).items()),
    )


def _form(name: str, row: Mapping[str, Any], layouts: Mapping[str, Layout]) -> Form:
    return Form(
        name=name,
        layouts=tuple(
            (
                glob,
                tuple(
                    find_layout(layouts, each) for each in ([own] if isinstance(own, str) else own)
                ),
            )
            for glob, own in row["layouts"].items()
        ),
        renames=tuple(read_rename(r) for r in row.get("renames", ())),
        groups=tuple(read_group(g) for g in row.get("groups", ())),
    )

"""The names and the layout of each stack in a target."""

from collections.abc import Mapping
from dataclasses import dataclass

from streamconv.catalog.families import FORMS, HUB_NAMES, SAME, Form
from streamconv.catalog.layouts import PER_EXPERT, Layout, NamedLayout
from streamconv.detection.detect import Detected
from streamconv.detection.layer_filter import LayerFilter
from streamconv.detection.stacks import Stack
from streamconv.errors import PlanRefused, quoted
from streamconv.planning.quantized_experts import StoredExperts

LOADED = "transformers"
"""The form that transformers loads."""

Rows = Mapping[str, NamedLayout | None]
"""The layout of each stack by its pattern; None if its layers stay in several layouts."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """How stacks may be left as they are."""

    layers: LayerFilter
    """Only the layers that it keeps count."""
    may_differ: bool
    """True if the layers of a stack may stay in several layouts, which no record then names."""


def target_rows(
    source: Detected,
    asked: str,
    stored: Mapping[str, StoredExperts],
    leaving: Leaving,
    *,
    pass_through: bool,
    is_merge: bool,
) -> tuple[Form, Rows]:
    """Return the names and the layout of each stack for the target that was asked for."""
    if asked == SAME:
        rows = {stack.pattern: kept_row(source, stack, leaving) for stack in source.stacks}
        return source.names, rows
    if asked not in FORMS:
        return _layout_rows(source, asked)
    names, wanted = _form_rows(source, asked, leaving, pass_through=pass_through)
    if asked == LOADED and not is_merge and not _loads(source, wanted, stored):
        return _published(source, names, wanted, stored, leaving)
    return names, wanted


def kept_row(source: Detected, stack: Stack, leaving: Leaving) -> NamedLayout | None:
    """Return the layout of a stack that stays as it is; None if its layers stay in several.

    Raises PlanRefused if they may not: a record has one layout and naming for all layers.
    """
    rows = {
        each.row: each.row
        for each in source.stacks
        if each.pattern == stack.pattern
        if any(leaving.layers.keeps(module.prefix) for module in each.modules)
    }
    if len(rows) > 1 and leaving.may_differ:
        return None
    if len(rows) > 1:
        layouts = dict.fromkeys(row.layout.name for row in rows)
        if len(layouts) == 1:
            layouts = dict.fromkeys(f"{row.layout.name} ({row.naming.name})" for row in rows)
        raise PlanRefused(
            f"cannot leave {quoted(stack.pattern)}experts as it is: its layers are "
            f"{' and '.join(layouts)}",
            "name one layout for all of them, such as --to per-expert, or add --pass-through",
        )
    return next(iter(rows), stack.row)


def _loads(source: Detected, wanted: Rows, stored: Mapping[str, StoredExperts]) -> bool:
    """Return True if transformers loads all quantized experts in these layouts."""
    return all(
        (wanted[stack.pattern] or stack.row).layout.name in stored[stack.pattern].loads
        for stack in source.stacks
        if stack.pattern in stored
    )


def _published(
    source: Detected,
    names: Form,
    wanted: Rows,
    stored: Mapping[str, StoredExperts],
    leaving: Leaving,
) -> tuple[Form, Rows]:
    """Return names and layouts of the hub, if transformers loads the quantized experts in them."""
    hub, rows = _form_rows(source, HUB_NAMES.name, leaving, pass_through=True)
    known = {stack.pattern for stack in source.stacks}
    if stored.keys() <= known and _loads(source, rows, stored):
        return hub, rows
    return names, wanted


def _layout_rows(source: Detected, asked: str) -> tuple[Form, Rows]:
    """Return the names and the layout of each stack if all have one layout."""
    layout = source.catalog.find_layout(asked)
    names = source.names
    if asked == PER_EXPERT:
        names = source.family.forms[HUB_NAMES.name] if source.family else HUB_NAMES
    return names, {stack.pattern: _named(source, stack, layout) for stack in source.stacks}


def _named(source: Detected, stack: Stack, layout: Layout) -> NamedLayout:
    """Return a layout of a stack under the naming of the target.

    If the names do not show the naming, it is that of the source, for a conversion back.
    """
    row = NamedLayout(layout, source.namings[stack.pattern])
    return row if row.names_projections() else NamedLayout(layout, stack.row.naming)


def _form_rows(
    source: Detected, asked: str, leaving: Leaving, *, pass_through: bool
) -> tuple[Form, Rows]:
    """Return the names and the layout of each stack in a form.

    Raises PlanRefused if the family does not have the form, and without `pass_through` if some of
    the experts have other names than those of the family.
    """
    family = source.family
    if family is None or asked not in family.forms:
        model_type = quoted(source.model_type or "unknown")
        hint = "name a layout instead: list them with `streamconv layouts`"
        if family is None:
            raise PlanRefused(
                f"model type {model_type} has no form {asked!r} here: it is in no family", hint
            )
        forms = ", ".join(family.forms)
        if asked in family.without:
            raise PlanRefused(
                f"model type {model_type} has no form {asked!r} here, only {forms}: "
                f"{family.without[asked]}",
                hint,
            )
        raise PlanRefused(f"model type {model_type} has no form {asked!r} here, only {forms}", hint)
    form = family.forms[asked]
    if source.foreign and not pass_through:
        raise PlanRefused(
            f"cannot give {quoted(source.foreign[0])}experts the form {asked!r}: the experts of "
            f"{quoted(source.model_type)} are {' and '.join(f'{p}experts' for p in family.stacks)}",
            "rename the tensors with --rename OLD=NEW, name a layout instead of a form, or add "
            "--pass-through to leave such experts as they are",
        )
    rows: dict[str, NamedLayout | None] = {}
    for stack in source.stacks:
        possible = {row.layout.name: row for row in family.layouts_for(stack.pattern, form)}
        row = possible.get(source.hub_layouts.get(stack.pattern, "")) if len(possible) > 1 else None
        row = row or next(iter(possible.values()), None)
        if row is None or stack.pattern in source.foreign:
            row = kept_row(source, stack, leaving)
        if row is not None and not row.names_projections():
            row = _named(source, stack, row.layout)
        rows[stack.pattern] = row
    return form, rows

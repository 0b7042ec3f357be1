"""What a conversion makes of a checkpoint: a layout for each stack, and names. Pure.

A target is a form (`hub`, `transformers`, `mindspeed`) or a bare layout. A layout applies to
every stack and keeps the source's names, except `per-expert`, which has the hub's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from streamconv.errors import PlanRefused, quoted
from streamconv.experts import Stack, same_tensors
from streamconv.families import FORMS, HUB_NAMES, Family, Form
from streamconv.layouts import Row, find_layout
from streamconv.recognise import Recognised, form_of

PER_EXPERT = "per-expert"
MERGE_UNKNOWN = "fused"
"""What merging makes of a model type that is in no family."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a conversion goes."""

    asked: str
    """The form or layout."""
    why: str
    """Why this one, for the person who reads the plan."""
    names: Form
    rows: Mapping[str, Row]
    """Pattern of each stack, in hub names, to the layout and naming it gets."""
    form: str | None
    """The form that the whole result has, or None."""


def merge_target(source: Recognised) -> tuple[str, str]:
    """The form or layout that merging makes of `source`, and why."""
    family = source.family
    if family is None:
        kind = f"model type {quoted(source.model_type)}" if source.model_type else "no model type"
        return MERGE_UNKNOWN, f"{kind} is in no family of the table"
    return family.merge, f"what merging makes of {quoted(source.model_type)}"


def resolve_target(source: Recognised, asked: str, why: str) -> Target:
    """The target called `asked`, in terms of the stacks of `source`.

    Raises UsageError where no form or layout has that name, PlanRefused where the family does
    not have the form, or its result could not be told from something else.
    """
    if asked in FORMS:
        return _form_target(source, asked, why)
    layout = find_layout(asked)
    names = source.names
    if asked == PER_EXPERT:
        names = source.family.forms[HUB_NAMES.name] if source.family else HUB_NAMES
    rows = {stack.pattern: Row(layout, stack.row.naming) for stack in source.stacks}
    _refuse_lookalikes(names, source.stacks, rows)
    return Target(asked, why, names, rows, form_of(source.family, names, rows))


def _form_target(source: Recognised, asked: str, why: str) -> Target:
    family = source.family
    if family is None or asked not in family.forms:
        known = f"only {', '.join(family.forms)}" if family else "no forms"
        raise PlanRefused(
            f"model type {quoted(source.model_type or 'unknown')} has no form {asked!r} here, "
            f"{known}",
            "name a layout instead: see the table of layouts",
        )
    form = family.forms[asked]
    rows = {stack.pattern: _row_in_form(family, form, stack) for stack in source.stacks}
    return Target(asked, why, form, rows, form_of(family, form, rows))


def _row_in_form(family: Family, form: Form, stack: Stack) -> Row:
    return family.row_of(stack.pattern, form) or stack.row


def _refuse_lookalikes(names: Form, stacks: tuple[Stack, ...], rows: Mapping[str, Row]) -> None:
    """Refuse a layout that looks like the one that these names stand for, and is another.

    Names other than the hub's tell the form when a checkpoint has lost its record, so nothing
    else may be written under them with the same tensor names and shapes.
    """
    for stack in stacks if names.renames else ():
        meant, layout = names.layout_of(stack.pattern), rows[stack.pattern].layout
        if meant not in (None, layout) and same_tensors(meant, layout, stack.sizes):
            raise PlanRefused(
                f"{quoted(stack.pattern)}experts as {layout.name} has the names and shapes that "
                f"are {meant.name} in the form {names.name!r}: the two could not be told apart",
                "convert to `hub` first, and from there",
            )

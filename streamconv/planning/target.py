"""What a conversion makes of a checkpoint: a layout for each stack, and names. Pure.

A target is a form (`hub`, `transformers`, `mindspeed`) or a bare layout. A layout applies to
every stack and keeps the source's names, except `per-expert`, which has the hub's. What a layout
has no place for, or would cut a block of scales in two, is refused or stays as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from streamconv.catalog.families import FORMS, HUB_NAMES, Form
from streamconv.catalog.layouts import NamedLayout
from streamconv.catalog.templates import EXPERT, solve_sizes
from streamconv.detection.detect import Detected, form_of
from streamconv.detection.stacks import Stack, same_tensors
from streamconv.detection.tensor_groups import groups_of
from streamconv.errors import PlanRefused, UsageError, quoted
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.planning.rearrangement import plan_rearrangement

PER_EXPERT = "per-expert"
AXES = {"i": "the intermediate size", "h": "the hidden size"}
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
    rows: Mapping[str, NamedLayout]
    """Pattern of each stack, in hub names, to the layout and naming it gets."""
    form: str | None
    """The form that the whole result has, or None."""
    kept: Mapping[str, str]
    """Pattern of each stack that stays as it is because it cannot become that, to the reason."""
    groups: Mapping[NamedLayout, NamedLayout] = field(default_factory=dict)
    """How the source stores each group, and how the target does."""

    def layout_for(self, stack: Stack) -> NamedLayout:
        """The row that a stack or a group of the source gets."""
        return self.groups.get(stack.row) or self.rows[stack.pattern]


def merge_target(source: Detected) -> tuple[str, str]:
    """The form or layout that merging makes of `source`, and why."""
    family = source.family
    if family is None:
        kind = f"model type {quoted(source.model_type)}" if source.model_type else "no model type"
        return MERGE_UNKNOWN, f"{kind} is in no family of the table"
    return family.merge, f"what merging makes of {quoted(source.model_type)}"


def resolve_target(source: Detected, asked: str, why: str, *, pass_through: bool = False) -> Target:
    """The target called `asked`, in terms of the stacks of `source`.

    Raises UsageError where no form or layout has that name, PlanRefused where the family does
    not have the form, its result could not be told from something else, or a stack cannot become
    that: with `pass_through` such a stack stays as it is.
    """
    names, wanted = _form_rows(source, asked) if asked in FORMS else _layout_rows(source, asked)
    rows, kept = {}, {}
    for stack in source.stacks:
        rows[stack.pattern] = wanted[stack.pattern]
        try:
            _check_row(source, stack, wanted[stack.pattern], None if asked in FORMS else names)
        except PlanRefused as refusal:
            if not pass_through:
                raise
            rows[stack.pattern] = stack.row
            kept[stack.pattern] = refusal.message
    groups = {
        row: names.layout_for(group)
        for group in groups_of(source.family.forms if source.family else {})
        for row in (group.hub_layout, group.form_layout)
    }
    return Target(asked, why, names, rows, form_of(source.family, names, rows), kept, groups)


def _layout_rows(source: Detected, asked: str) -> tuple[Form, Mapping[str, NamedLayout]]:
    layout = source.catalog.find_layout(asked)
    names = source.names
    if asked == PER_EXPERT:
        names = source.family.forms[HUB_NAMES.name] if source.family else HUB_NAMES
    return names, {stack.pattern: NamedLayout(layout, stack.row.naming) for stack in source.stacks}


def _form_rows(source: Detected, asked: str) -> tuple[Form, Mapping[str, NamedLayout]]:
    family = source.family
    if family is None or asked not in family.forms:
        known = f"only {', '.join(family.forms)}" if family else "no forms"
        reason = family.without.get(asked) if family else None
        raise PlanRefused(
            f"model type {quoted(source.model_type or 'unknown')} has no form {asked!r} here, "
            f"{known}{f': {reason}' if reason else ''}",
            "name a layout instead: see the table of layouts",
        )
    form = family.forms[asked]
    return form, {
        stack.pattern: family.layout_for(stack.pattern, form) or stack.row
        for stack in source.stacks
    }


def _check_row(source: Detected, stack: Stack, row: NamedLayout, names: Form | None) -> None:
    """Refuse a row that a stack cannot have; `names` are those that a bare layout would get."""
    if row == stack.row:
        return
    where = f"{quoted(stack.pattern)}experts"
    for weight, infos in stack.first.items():
        old = stack.row.layout.templates[weight]
        new = row.layout.templates.get(weight)
        if new is None:
            raise PlanRefused(
                f"{where} cannot become {row.layout.name}: it has no place for "
                f"{quoted(infos[0].name)} {infos[0].dtype} {list(infos[0].shape)}, whose elements "
                "belong together along the axis that they are packed or scaled along"
            )
        for layout in (stack.row.layout, row.layout):
            for axis, count in layout.whole_blocks[weight].items():
                _check_blocks(source, stack, where, infos[0].name, axis, count)
        fixed = dict.fromkeys(new.name_axes, 0)
        try:
            plan_rearrangement(old, new, stack.sizes, fixed, DTYPE_BITS[infos[0].dtype])
        except UsageError as error:
            raise PlanRefused(f"{quoted(infos[0].name)}: {error.message}") from None
    if stack.pattern not in source.counted and not _tells_count(stack, row):
        raise PlanRefused(
            f"{where} as {row.layout.name} would not tell how many experts there are: its shapes "
            f"would have {stack.sizes[EXPERT]} times {stack.sizes['i']} as one number, and "
            "config.json does not count them",
            "choose another layout",
        )
    meant = names.layout_of(stack.pattern) if names else None
    if (
        names
        and meant not in (None, row.layout)
        and same_tensors(NamedLayout(meant, row.naming), row, stack)
    ):
        raise PlanRefused(
            f"{where} as {row.layout.name} has the names and shapes that are {meant.name} in the "
            f"form {names.name!r}: the two could not be told apart",
            "convert to `hub` first, and from there, or to another layout",
        )


def _tells_count(stack: Stack, row: NamedLayout) -> bool:
    """Whether names and shapes under a row settle the size of every axis again."""
    templates = [row.layout.templates[weight] for weight in stack.first]
    shapes = [((template,), template.shape(stack.sizes)) for template in templates]
    named = any(EXPERT in template.name_axes for template in templates)
    known = {EXPERT: stack.sizes[EXPERT]} if named else {}
    return solve_sizes(shapes, {**row.sizes(), **known}) is not None


def _check_blocks(
    source: Detected, stack: Stack, where: str, name: str, axis: str, count: str
) -> None:
    """Refuse to put experts or projections side by side where blocks of scales do not end there."""
    sizes = stack.sizes
    lengths = {sizes[of] / sizes[by] for of, by in (("i", "j"), ("h", "k"))}
    length = source.block[0] if source.block else min(lengths)
    square = len(set(source.block or lengths)) == 1
    if not square or sizes[count] * length != sizes[axis]:
        said = f"blocks of {list(source.block)}" if source.block else f"{sizes[count]} blocks"
        raise PlanRefused(
            f"{where}: {quoted(name)} has scales for {said}, and {AXES[axis]} is {sizes[axis]}: "
            "a cut between projections or experts would fall inside a block"
        )

"""Resolve the target of a conversion: a layout for each stack, and names.

A target is a form (`hub`, `transformers`, `mindspeed`), a layout, or `same`. A layout applies to
every stack and keeps the source's names, except `per-expert`, which gives hub names. A stack that
cannot have the layout is refused or stays as it is. `same` keeps all layouts and names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from streamconv.catalog.families import FORMS, HUB_NAMES, Form
from streamconv.catalog.layouts import Layout, NamedLayout
from streamconv.catalog.templates import EXPERT, solve_sizes
from streamconv.detection.detect import Detected
from streamconv.detection.detect_form import form_of
from streamconv.detection.stacks import Stack, same_tensors
from streamconv.detection.tensor_groups import groups_of
from streamconv.errors import PlanRefused, UsageError, quoted
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.planning.rearrangement import plan_rearrangement

PER_EXPERT = "per-expert"
SAME = "same"
"""The target that changes neither layouts nor names."""
_AXES = {"i": "the intermediate size", "h": "the hidden size"}
MERGE_UNKNOWN = "fused"
"""The layout that merging gives to a model type in no family."""


@dataclass(frozen=True, slots=True)
class Target:
    """The layouts and names of the output."""

    asked: str
    """The form or layout that was asked for, or chosen for merging."""
    why: str
    """Reason for that choice, for the person who reads the plan."""
    names: Form
    """The form whose names the output has."""
    rows: Mapping[str, NamedLayout]
    """Layout and naming of each stack, by its pattern in hub names."""
    form: str | None
    """The form of the whole output, or None if it has none."""
    kept: Mapping[str, str]
    """The reason for each stack and group that stays as it is though it has another layout there.

    The key is a pattern and what such modules hold: `model.layers.*.mlp.experts`.
    """
    groups: Mapping[NamedLayout, NamedLayout] = field(default_factory=dict)
    """Layout of each group in the output, by its layout in the source."""

    def layout_for(self, stack: Stack) -> NamedLayout:
        """Return the layout and naming that a stack or group of the source gets."""
        return self.groups.get(stack.row) or self.rows[stack.pattern]


def merge_target(source: Detected) -> tuple[str, str]:
    """Return the form or layout that merging makes of `source`, and the reason."""
    if source.family is not None:
        return source.family.merge, f"what merging makes of {quoted(source.model_type)}"
    if source.model_type:
        return MERGE_UNKNOWN, f"model type {quoted(source.model_type)} is in no family"
    return MERGE_UNKNOWN, "config.json has no model type"


def resolve_target(source: Detected, asked: str, why: str, *, pass_through: bool = False) -> Target:
    """Resolve the target called `asked` for the stacks of `source`.

    Args:
        source: The checkpoint to convert.
        asked: A form, a layout, or `same`.
        why: The reason for it, for the person who reads the plan.
        pass_through: Leave a stack that cannot have its layout as it is.

    Raises:
        UsageError: There is no form or layout called `asked`.
        PlanRefused: The family does not have the form, or a stack cannot have its layout.
    """
    if asked in FORMS:
        names, wanted = _form_rows(source, asked)
    elif asked == SAME:
        names, wanted = source.names, {stack.pattern: stack.row for stack in source.stacks}
    else:
        names, wanted = _layout_rows(source, asked)
    rows, kept = {}, {}
    for stack in source.stacks:
        rows[stack.pattern] = wanted[stack.pattern]
        try:
            _check_row(source, stack, wanted[stack.pattern], None if asked in FORMS else names)
        except PlanRefused as refusal:
            if not pass_through:
                raise
            rows[stack.pattern] = stack.row
            kept[stack.pattern + stack.contents] = refusal.message
    groups = {
        row: names.layout_for(group)
        for group in groups_of(source.family.forms if source.family else {})
        for row in (group.hub_layout, group.form_layout)
    }
    form = form_of(source.family, names, rows)
    if pass_through:
        for group, info in source.companions_of_groups():
            row = source.names.layout_for(group)
            if groups[row] != row:
                groups[row], form = row, None
                kept[group.where + group.label] = (
                    f"no table says what becomes of {quoted(info.name)}"
                )
    return Target(asked, why, names, rows, form, kept, groups)


def _layout_rows(source: Detected, asked: str) -> tuple[Form, Mapping[str, NamedLayout]]:
    """Return the names and the layout of each stack if all have one layout."""
    layout = source.catalog.find_layout(asked)
    names = source.names
    if asked == PER_EXPERT:
        names = source.family.forms[HUB_NAMES.name] if source.family else HUB_NAMES
    return names, {stack.pattern: _named(source, stack, layout) for stack in source.stacks}


def _named(source: Detected, stack: Stack, layout: Layout) -> NamedLayout:
    """Return a layout of a stack under the naming of the target.

    If the names do not show the naming, it is that of the source, for a way back.
    """
    row = NamedLayout(layout, source.namings[stack.pattern])
    return row if row.names_projections() else NamedLayout(layout, stack.row.naming)


def _form_rows(source: Detected, asked: str) -> tuple[Form, Mapping[str, NamedLayout]]:
    """Return the names and the layout of each stack in a form."""
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
    rows = {}
    for stack in source.stacks:
        row = family.layout_for(stack.pattern, form) or stack.row
        rows[stack.pattern] = row if row.names_projections() else _named(source, stack, row.layout)
    return form, rows


def _check_row(source: Detected, stack: Stack, row: NamedLayout, names: Form | None) -> None:
    """Raise PlanRefused if a stack cannot have a layout.

    `names` is the form whose names it would get if a layout was asked for, None if a form was.
    """
    if row == stack.row:
        return
    _check_weights(source, stack, row)
    _check_count_recoverable(source, stack, row)
    if names is not None:
        _check_unambiguous(stack, row, names)


def _check_weights(source: Detected, stack: Stack, row: NamedLayout) -> None:
    """Check that each weight has a place in the layout, and moves in whole blocks and bytes."""
    subject = f"{quoted(stack.pattern)}experts"
    for weight, infos in stack.first.items():
        old = stack.row.layout.templates[weight]
        new = row.layout.templates.get(weight)
        if new is None:
            raise PlanRefused(
                f"{subject} cannot become {row.layout.name}: it has no place for "
                f"{quoted(infos[0].name)} {infos[0].dtype} {list(infos[0].shape)}, whose elements "
                "belong together along the axis that they are packed or scaled along"
            )
        for layout in (stack.row.layout, row.layout):
            for axis, count in layout.whole_blocks[weight].items():
                _check_blocks(source, stack, infos[0].name, axis, count)
        fixed = dict.fromkeys(new.name_axes, 0)
        try:
            plan_rearrangement(old, new, stack.sizes, fixed, DTYPE_BITS[infos[0].dtype])
        except UsageError as error:
            raise PlanRefused(f"{quoted(infos[0].name)}: {error.message}") from None


def _check_count_recoverable(source: Detected, stack: Stack, row: NamedLayout) -> None:
    """Check that the number of experts follows from names and shapes, or from config.json."""
    if stack.pattern not in source.counted and not _settles_sizes(stack, row):
        raise PlanRefused(
            f"{quoted(stack.pattern)}experts as {row.layout.name} would not tell how many experts "
            f"there are: its shapes would have {stack.sizes[EXPERT]} times {stack.sizes['i']} as "
            "one number, and config.json does not count them",
            "choose another layout",
        )


def _check_unambiguous(stack: Stack, row: NamedLayout, names: Form) -> None:
    """Check that under these names the stack would not look like the form's own layout."""
    expected = names.layout_of(stack.pattern)
    if expected in (None, row.layout):
        return
    if same_tensors(NamedLayout(expected, row.naming), row, stack):
        raise PlanRefused(
            f"{quoted(stack.pattern)}experts as {row.layout.name} has the names and shapes that "
            f"are {expected.name} in the form {names.name!r}: the two could not be distinguished",
            "convert to `hub` first, and from there, or to another layout",
        )


def _settles_sizes(stack: Stack, row: NamedLayout) -> bool:
    """Return True if names and shapes in a layout settle the size of every axis."""
    templates = [row.layout.templates[weight] for weight in stack.first]
    shapes = [((template,), template.shape(stack.sizes)) for template in templates]
    named = any(EXPERT in template.name_axes for template in templates)
    known = {EXPERT: stack.sizes[EXPERT]} if named else {}
    return solve_sizes(shapes, {**row.sizes(), **known}) is not None


def _check_blocks(source: Detected, stack: Stack, name: str, axis: str, count: str) -> None:
    """Check that experts or projections next to each other end where a block of scales ends.

    Args:
        source: The checkpoint, with the size of a block if config.json gives it.
        stack: The stack with the scales.
        name: Name of a weight, for the error.
        axis: The axis along which blocks have to be whole.
        count: The axis that counts these blocks.
    """
    sizes = stack.sizes
    lengths = {sizes[of] / sizes[by] for of, by in (("i", "j"), ("h", "k"))}
    length = source.block[0] if source.block else min(lengths)
    square = len(set(source.block or lengths)) == 1
    if not square or sizes[count] * length != sizes[axis]:
        blocks = f"blocks of {list(source.block)}" if source.block else f"{sizes[count]} blocks"
        raise PlanRefused(
            f"{quoted(stack.pattern)}experts: {quoted(name)} has scales for {blocks}, and "
            f"{_AXES[axis]} is {sizes[axis]}: a cut between projections or experts would fall "
            "inside a block"
        )

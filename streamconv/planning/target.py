"""Resolve the target of a conversion: a layout for each stack, and names.

A target is a form (`hub`, `transformers`, `mindspeed`), a layout, or `same`. A layout applies to
every stack and keeps the source's names, except `per-expert`, which gives hub names. A stack that
cannot have the layout is refused or stays as it is. `same` keeps all layouts and names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from streamconv.catalog.families import FORMS, HUB_NAMES, SAME, Form
from streamconv.catalog.layouts import PER_EXPERT, NamedLayout
from streamconv.detection.detect import Detected
from streamconv.detection.detect_form import form_of
from streamconv.detection.group_names import groups_of
from streamconv.detection.layer_filter import LayerFilter
from streamconv.detection.stacks import Stack
from streamconv.errors import PlanRefused, quoted
from streamconv.planning.quantized_experts import StoredExperts, refuse_to_merge, warning
from streamconv.planning.stack_target import check_row
from streamconv.planning.target_rows import Leaving, Rows, kept_row, target_rows


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
    """Layout and naming of each stack, by its pattern in hub names.

    A stack whose layers stay in several layouts has none.
    """
    form: str | None
    """The form of the whole output, or None if it has none."""
    kept: Mapping[str, str]
    """Why some stacks and groups keep their layout, although the target has another for them.

    The key is the pattern of the modules and their contents: `model.layers.*.mlp.experts`.
    """
    hub_layouts: Mapping[str, str] = field(default_factory=dict)
    """The layout on the hub of each stack for which the hub has several, by its pattern."""
    groups: Mapping[NamedLayout, NamedLayout] = field(default_factory=dict)
    """Layout of each group in the output, by its layout in the source."""
    unchanged: frozenset[str] = frozenset()
    """Patterns of the stacks that stay as they are, each layer in its own layout."""
    warnings: tuple[str, ...] = ()
    """Sentences on experts that would not load in the layout that was asked for."""

    may_load: bool = False
    """True if the output has no form, and its experts are quantized so that transformers loads
    them nevertheless."""

    def __repr__(self) -> str:
        return f"<Target {self.asked}: {self.why}>"

    def layout_for(self, stack: Stack) -> NamedLayout:
        """Return the layout and naming that a stack or group of the source gets."""
        if stack.row in self.groups:
            return self.groups[stack.row]
        return stack.row if stack.pattern in self.unchanged else self.rows[stack.pattern]


def resolve_target(
    source: Detected,
    asked: str,
    why: str,
    *,
    pass_through: bool = False,
    quantized: Mapping[str, StoredExperts] | None = None,
    is_merge: bool = False,
    layers: range | None = None,
    is_written: bool = True,
) -> Target:
    """Resolve the target called `asked` for the stacks of `source`.

    Args:
        source: The checkpoint to convert.
        asked: A form, a layout, or `same`.
        why: The reason for it, for the person who reads the plan.
        pass_through: True to leave a stack as it is if it cannot have its layout.
        quantized: By the pattern of a stack, its number formats if its experts are quantized.
        is_merge: True if the user named no target, and it is the one of `merge`.
        layers: Numbers of the layers to keep, along with everything in no layer; None for all.
        is_written: False if no checkpoint is written, whose record would name the layouts.

    Raises:
        UsageError: There is no form or layout called `asked`.
        PlanRefused: The family does not have the form, or a stack cannot have its layout.
    """
    stored = quantized or {}
    leaving = Leaving(LayerFilter.of(source.layer_lists, layers), pass_through or not is_written)
    names, wanted = target_rows(
        source, asked, stored, leaving, pass_through=pass_through, is_merge=is_merge
    )
    rows = dict(wanted)
    unchanged = {pattern for pattern, row in rows.items() if asked == SAME or row is None}
    kept: dict[str, str] = {}
    for pattern in source.foreign if asked in FORMS else ():
        kept[f"{pattern}experts"] = f"it is not a stack of {quoted(source.model_type)}"
    for stack in source.stacks:
        row = rows[stack.pattern]
        if row is None or stack.pattern in unchanged:
            continue
        try:
            if (is_merge or asked in FORMS) and asked != HUB_NAMES.name:
                _check_loading(source, stack, row, stored, asked)
            check_row(source, stack, row, None if asked in FORMS else names)
        except PlanRefused as refusal:
            if not pass_through:
                raise
            unchanged.add(stack.pattern)
            rows[stack.pattern] = kept_row(source, stack, leaving)
            kept[stack.pattern + stack.contents] = refusal.message
    groups, kept_groups = _groups(source, names, pass_through=pass_through)
    kept |= kept_groups
    one = {pattern: row for pattern, row in rows.items() if row is not None}
    warnings = _warnings(source, rows, stored)
    form = None
    if not (kept_groups or warnings) and len(one) == len(rows):
        form = form_of(source.family, names, one.items(), source.refusals, source.unknown_names)
    if source.refusals and form != source.form:
        form = None  # the refused experts stay in the layout that they have
    may_load = form is None and all(
        _loads_single(s, rows[s.pattern] or s.row, stored) for s in source.stacks
    )
    return Target(
        asked=asked,
        why=why,
        names=names,
        rows=one,
        form=form,
        kept=kept,
        hub_layouts=source.hub_layouts,
        groups=groups,
        unchanged=frozenset(unchanged),
        warnings=warnings,
        may_load=may_load,
    )


def _groups(
    source: Detected, names: Form, *, pass_through: bool
) -> tuple[dict[NamedLayout, NamedLayout], dict[str, str]]:
    """Return the layout that each group gets, and the reason for each that stays as it is."""
    groups = {
        row: names.layout_for(group)
        for group in groups_of(source.family.forms if source.family else {})
        for row in (group.hub_layout, group.form_layout)
    }
    kept: dict[str, str] = {}
    for group, info in source.companions_of_groups() if pass_through else ():
        row = source.names.layout_for(group)
        if groups[row] != row:
            groups[row] = row
            kept[group.where + group.label] = f"no table says what becomes of {quoted(info.name)}"
    return groups, kept


def _warnings(source: Detected, rows: Rows, stored: Mapping[str, StoredExperts]) -> tuple[str, ...]:
    """Return a warning for each stack that would not load in its new layout."""
    becomes = ((stack, rows[stack.pattern] or stack.row) for stack in source.stacks)
    found = (
        warning(stack.pattern, stored[stack.pattern], row)
        for stack, row in becomes
        if not _loads_as(stack, row, stored)
    )
    return tuple(dict.fromkeys(found))


def _loads_as(stack: Stack, row: NamedLayout, stored: Mapping[str, StoredExperts]) -> bool:
    """Return True if a stack is not quantized, keeps its layout, or becomes one that loads."""
    experts = stored.get(stack.pattern)
    if experts is None or (row.layout == stack.row.layout and not experts.is_made):
        return True
    if row.layout.name == PER_EXPERT:
        return experts.has_single
    return row.layout.name in experts.loads


def _loads_single(stack: Stack, row: NamedLayout, stored: Mapping[str, StoredExperts]) -> bool:
    """Return True if a stack is quantized and becomes single experts, which transformers has."""
    experts = stored.get(stack.pattern)
    return experts is not None and row.layout.name == PER_EXPERT and experts.has_single


def _check_loading(
    source: Detected,
    stack: Stack,
    row: NamedLayout,
    stored: Mapping[str, StoredExperts],
    asked: str,
) -> None:
    """Raise PlanRefused if a form would have quantized experts that do not load in it."""
    if not _loads_as(stack, row, stored):
        raise refuse_to_merge(source.model_type, stack.pattern, stored[stack.pattern], asked)

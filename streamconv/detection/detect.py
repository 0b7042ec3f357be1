"""Detect the family, form and expert stacks of a checkpoint.

The form is that of the checkpoint's record, else the one whose own names the tensors have. Which
layout a stack has is decided in `resolve_layout`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from streamconv.catalog.catalog import Catalog
from streamconv.catalog.families import FORMS, HUB_NAMES, Family, Form, Group
from streamconv.catalog.layouts import NamedLayout
from streamconv.checkpoint.config import block_from_config
from streamconv.checkpoint.types import Checkpoint, TensorInfo
from streamconv.detection.experts import (
    Candidate,
    ModuleExperts,
    find_experts,
    stack_experts,
)
from streamconv.detection.resolve_layout import (
    LayoutResolver,
    check_expert_count,
    expert_counts_from_config,
    recorded_layouts,
)
from streamconv.detection.stacks import Stack
from streamconv.detection.tensor_groups import (
    GroupTensors,
    companions_of_groups,
    find_groups,
    groups_of,
)
from streamconv.errors import BadCheckpoint, PlanRefused, quoted


@dataclass(frozen=True, slots=True)
class Detected:
    """A checkpoint in the terms of a catalog."""

    catalog: Catalog
    family: Family | None
    model_type: str
    names: Form
    """The form whose names the tensors have."""
    form: str | None
    """The form of the whole checkpoint, or None if it has none."""
    stacks: tuple[Stack, ...]
    hub_names: Mapping[str, TensorInfo]
    """Every tensor by its hub name, in the checkpoint's order."""
    block: tuple[int, int] | None = None
    """Rows and columns of a block of scales, if config.json gives them."""
    undescribed: tuple[str, ...] = ()
    """Patterns of modules whose experts no layout describes, and that stay as they are."""
    counted: frozenset[str] = frozenset()
    """Patterns of stacks whose experts are counted in config.json."""
    groups: tuple[Stack, ...] = ()
    """Tensors next to the experts that the family's forms store in different ways."""

    def group_layouts(self) -> dict[Group, NamedLayout]:
        """Return the layout that each group of the family is stored in."""
        forms = self.family.forms if self.family else {}
        return {group: self.names.layout_for(group) for group in groups_of(forms)}

    def companions_of_groups(self) -> Iterator[tuple[Group, TensorInfo]]:
        """Yield each tensor that means nothing without one of a group, and that no group has."""
        return companions_of_groups(self.hub_names, self.group_layouts())


def detect(
    checkpoint: Checkpoint,
    catalog: Catalog,
    declared_layout: str | None = None,
    *,
    pass_through: bool = False,
) -> Detected:
    """Detect the family, form and expert stacks of `checkpoint`.

    Args:
        checkpoint: Its headers.
        catalog: The layouts and families to look for.
        declared_layout: The form or layout that the user says it has.
        pass_through: Leave experts that no layout describes as they are.

    Raises:
        BadCheckpoint: Experts are incomplete or contradict config.json, or the checkpoint records
            a layout that is not in the catalog.
        PlanRefused: The layout is ambiguous, or no layout describes some experts, without
            `pass_through`.
        UsageError: There is no form or layout called `declared_layout`.
    """
    family = catalog.find_family(checkpoint.config.get("model_type"))
    if declared_layout is not None and declared_layout not in FORMS:
        catalog.find_layout(declared_layout)
    names = _names(checkpoint, family, declared_layout)
    recorded = recorded_layouts(checkpoint, catalog)
    hub_names = _undo_renames(names, checkpoint)
    counts = expert_counts_from_config(checkpoint.config, family)
    if family is not None and family.refused:
        stacks, undescribed = _refused(family, checkpoint, pass_through=pass_through)
    else:
        experts, undescribed = find_experts(
            hub_names.items(),
            catalog,
            counts,
            family.naming if family and not family.naming.auto_detect else None,
            pass_through=pass_through,
        )
        resolver = LayoutResolver(checkpoint, catalog, recorded, family, names, declared_layout)
        choices, unresolved = _choices(resolver, experts, pass_through=pass_through)
        undescribed += unresolved
        stacks = stack_experts(choices)
        resolver.check_declared(choices)
    rows = {stack.pattern: stack.row for stack in stacks}
    for stack in stacks:
        check_expert_count(checkpoint.config, family, stack, is_only_stack=len(rows) == 1)
    model_type = checkpoint.config.get("model_type")
    return Detected(
        catalog=catalog,
        family=family,
        model_type=model_type if isinstance(model_type, str) else "",
        names=names,
        form=form_of(family, names, rows),
        stacks=stacks,
        hub_names=hub_names,
        block=block_from_config(checkpoint.config),
        undescribed=undescribed,
        counted=frozenset(rows.keys() & counts.keys()),
        groups=_groups(checkpoint, family.forms if family else {}, names, hub_names),
    )


def _choices(
    resolver: LayoutResolver, experts: Iterable[ModuleExperts], *, pass_through: bool
) -> tuple[list[Candidate], tuple[str, ...]]:
    """Return the layout of each module, and the patterns of modules that are left as they are.

    Those are the modules with a companion that no layout has a place for. Raises PlanRefused for
    them without `pass_through`, and if a layout cannot be resolved.
    """
    choices: list[Candidate] = []
    left: dict[str, None] = {}
    for module in experts:
        if pass_through and module.misfit is not None:
            left[module.pattern] = None
        else:
            choices.append(resolver.choose(module))
    return [choice for choice in choices if choice.pattern not in left], tuple(left)


def _refused(
    family: Family, checkpoint: Checkpoint, *, pass_through: bool
) -> tuple[tuple[Stack, ...], tuple[str, ...]]:
    """Return no stacks, and the patterns of a family whose experts are never converted.

    Raises PlanRefused without `pass_through`.
    """
    if not pass_through:
        raise PlanRefused(
            f"cannot convert model type {quoted(str(checkpoint.config.get('model_type')))}: "
            f"{family.refused}",
            "add --pass-through to copy its experts as they are",
        )
    return (), tuple(family.stacks)


def _groups(
    checkpoint: Checkpoint,
    forms: Mapping[str, Form],
    names: Form,
    hub_names: Mapping[str, TensorInfo],
) -> tuple[Stack, ...]:
    """Return every group, stored as in the form whose names its tensors have.

    That is the form `names`, except for tensors filled in from a template: they have the
    template's form.
    """
    template = checkpoint.template
    by_form = [(names, hub_names)]
    if template is not None:
        filled = {name: info for name, info in hub_names.items() if info.name in template.filled}
        own = {name: info for name, info in hub_names.items() if name not in filled}
        by_form = [(names, own), (forms.get(template.names, HUB_NAMES), filled)]
    return tuple(
        stack
        for form, tensors in by_form
        for stack in find_groups(
            tensors,
            {group: form.layout_for(group) for group in groups_of(forms)},
            checkpoint.config,
        )
    )


def form_of(family: Family | None, names: Form, rows: Mapping[str, NamedLayout]) -> str | None:
    """Return the form of the family that has these names and layouts, or None."""
    if family is None or not rows:
        return None
    for form in family.forms.values():
        as_here = (family.layout_for(pattern, form) in (row, None) for pattern, row in rows.items())
        if (form.renames, form.groups) == (names.renames, names.groups) and all(as_here):
            return form.name
    return None


def _names(checkpoint: Checkpoint, family: Family | None, declared_layout: str | None) -> Form:
    """Return the form whose names the tensors have.

    It comes from the record, or from the form that the user declares, or from the form with the
    most tensors that carry its own names.
    """
    forms = family.forms if family else {}
    model_type = quoted(str(checkpoint.config.get("model_type")))
    record = checkpoint.record
    if record is not None and record.names != HUB_NAMES.name and record.names not in forms:
        raise BadCheckpoint(
            f"{checkpoint.location}: its record says that it has the names of the form "
            f"{quoted(record.names)}, and model type {model_type} has no such form"
        )
    if record is not None:
        return forms.get(record.names, HUB_NAMES)
    if declared_layout in FORMS:
        if declared_layout not in forms:
            known = f"only {', '.join(forms)}" if family else "no forms"
            raise PlanRefused(f"model type {model_type} has no form {declared_layout!r}, {known}")
        return forms[declared_layout]
    counts = {form.name: _count_own_names(form, checkpoint) for form in forms.values()}
    likely = max(counts, key=lambda name: counts[name], default=HUB_NAMES.name)
    return forms.get(likely, HUB_NAMES)


def _count_own_names(form: Form, checkpoint: Checkpoint) -> int:
    """Return the number of tensors whose names only this form has.

    Those are the names that it renames, and those of the tensors that it makes of groups. The
    result is -1 if some tensor has a name that the form would not give.
    """
    if not form.renames and not form.groups:
        return 0
    hub_names = {name: form.undo(name) for name in checkpoint.tensors}
    if any(form.apply(hub_name) != name for name, hub_name in hub_names.items()):
        return -1
    in_form = GroupTensors({group: group.form_layout for group in form.groups})
    in_hub = GroupTensors({group: group.hub_layout for group in form.groups})
    return sum(
        hub_name != name or (in_form.find(hub_name) is not None and in_hub.find(hub_name) is None)
        for name, hub_name in hub_names.items()
    )


def _undo_renames(names: Form, checkpoint: Checkpoint) -> Mapping[str, TensorInfo]:
    """Return the tensors by hub name; raise BadCheckpoint for a name that the form never gives."""
    if not names.renames:
        return checkpoint.tensors
    hub_names = {names.undo(name): info for name, info in checkpoint.tensors.items()}
    for hub_name, info in hub_names.items():
        if names.apply(hub_name) != info.name:
            raise BadCheckpoint(
                f"tensor {quoted(info.name)} would be {quoted(hub_name)} on the hub, "
                f"and that is {quoted(names.apply(hub_name))} in the form {names.name!r}"
            )
    return hub_names

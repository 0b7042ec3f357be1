"""What a checkpoint is: its family, the form whose names it has, its expert stacks. Pure.

The form is what the source's record says, else the one whose own names its tensors have. Which
layout a stack has is settled in `settle`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from streamconv.catalog.families import FORMS, HUB_NAMES, Family, Form, family_of
from streamconv.catalog.layouts import NamedLayout, find_layout
from streamconv.checkpoint.casting import stated_block
from streamconv.checkpoint.types import Checkpoint, TensorInfo
from streamconv.detection.experts import find_stacks
from streamconv.detection.resolve_layout import Settle, check_count, counted
from streamconv.detection.stacks import Stack
from streamconv.detection.tensor_groups import GroupTensors, find_groups, groups_of
from streamconv.errors import BadCheckpoint, PlanRefused, quoted


@dataclass(frozen=True, slots=True)
class Detected:
    """A checkpoint in terms of the tables."""

    family: Family | None
    model_type: str
    names: Form
    """The form whose names the tensors have."""
    form: str | None
    """The form that all of it has, or None."""
    stacks: tuple[Stack, ...]
    hub_names: Mapping[str, TensorInfo]
    """Every tensor by its plain name, in the checkpoint's order."""
    block: tuple[int, int] | None = None
    """Rows and columns that a block scale is for, where the config says so."""
    undescribed: tuple[str, ...] = ()
    """Patterns of modules that no layout describes, and that stay as they are."""
    counted: frozenset[str] = frozenset()
    """Patterns of stacks whose experts the config counts."""
    groups: tuple[Stack, ...] = ()
    """Other tensors that some form of the family stores otherwise than another."""


def detect(
    checkpoint: Checkpoint, declared_layout: str | None = None, *, pass_through: bool = False
) -> Detected:
    """What `checkpoint` is; `declared_layout` is the form or layout that the user says it has.

    Experts that no layout describes are refused, or left as they are with `pass_through`. Raises
    BadCheckpoint where experts are incomplete or contradict the config, PlanRefused where a
    layout cannot be told, UsageError for a `declared_layout` that does not exist.
    """
    model_type = checkpoint.config.get("model_type")
    family = family_of(model_type)
    if declared_layout is not None and declared_layout not in FORMS:
        find_layout(declared_layout)
    names = _names(checkpoint, family, declared_layout)
    hub_names = _undo(names, checkpoint)
    settle = Settle(checkpoint, family, names, declared_layout)
    undescribed: list[str] = []
    if family is not None and family.refused:
        if not pass_through:
            raise PlanRefused(
                f"model type {quoted(str(model_type))} is not converted: {family.refused}",
                "--pass-through copies its experts as they are",
            )
        stacks: tuple[Stack, ...] = ()
        undescribed += family.stacks
    else:
        stacks = find_stacks(
            hub_names.items(),
            settle,
            lambda pattern: counted(checkpoint.config, family, pattern),
            family.naming if family and not family.naming.auto_detect else None,
            undescribed if pass_through else None,
        )
    settle.check_stated()
    alone = len({stack.pattern for stack in stacks}) == 1
    for stack in stacks:
        check_count(checkpoint.config, family, stack, alone=alone)
    rows = {stack.pattern: stack.row for stack in stacks}
    return Detected(
        family=family,
        model_type=model_type if isinstance(model_type, str) else "",
        names=names,
        form=form_of(family, names, rows),
        stacks=stacks,
        hub_names=hub_names,
        block=stated_block(checkpoint.config),
        undescribed=tuple(undescribed),
        counted=frozenset(
            pattern for pattern in rows if counted(checkpoint.config, family, pattern) is not None
        ),
        groups=_groups(checkpoint, family.forms if family else {}, names, hub_names),
    )


def _groups(
    checkpoint: Checkpoint,
    forms: Mapping[str, Form],
    names: Form,
    hub_names: Mapping[str, TensorInfo],
) -> tuple[Stack, ...]:
    """Every group, stored as the names tell; what a template has filled in, as it is there."""
    template = checkpoint.template
    held = [(names, hub_names)]
    if template is not None:
        filled = {name: info for name, info in hub_names.items() if info.name in template.filled}
        own = {name: info for name, info in hub_names.items() if name not in filled}
        held = [(names, own), (forms.get(template.names, HUB_NAMES), filled)]
    return tuple(
        stack
        for form, tensors in held
        for stack in find_groups(
            tensors,
            {group: form.layout_for(group) for group in groups_of(forms)},
            checkpoint.config,
        )
    )


def form_of(family: Family | None, names: Form, rows: Mapping[str, NamedLayout]) -> str | None:
    """The form of the family that has these names and rows, or None."""
    if family is None or not rows:
        return None
    for form in family.forms.values():
        as_here = (family.layout_for(pattern, form) in (row, None) for pattern, row in rows.items())
        if (form.renames, form.groups) == (names.renames, names.groups) and all(as_here):
            return form.name
    return None


def _names(checkpoint: Checkpoint, family: Family | None, declared_layout: str | None) -> Form:
    """The form whose names the tensors have."""
    forms = family.forms if family else {}
    record = checkpoint.record
    if record is not None and record.names != HUB_NAMES.name and record.names not in forms:
        raise BadCheckpoint(
            f"{checkpoint.location}: its record says that it has the names of the form "
            f"{quoted(record.names)}, and model type "
            f"{quoted(str(checkpoint.config.get('model_type')))} has no such form"
        )
    if record is not None:
        return forms.get(record.names, HUB_NAMES)
    if declared_layout in FORMS:
        if declared_layout not in forms:
            raise PlanRefused(
                _no_form(declared_layout, checkpoint.config.get("model_type"), family)
            )
        return forms[declared_layout]
    held = {form.name: _renamed(form, checkpoint) for form in forms.values()}
    likely = max(held, key=lambda name: held[name], default=HUB_NAMES.name)
    return forms.get(likely, HUB_NAMES)


def _renamed(form: Form, checkpoint: Checkpoint) -> int:
    """How many names are the form's own: those that it has renamed, and those of what its groups
    become; -1 where there are some that it would not give."""
    if not form.renames and not form.groups:
        return 0
    undone = {name: form.undo(name) for name in checkpoint.tensors}
    if any(form.apply(plain) != name for name, plain in undone.items()):
        return -1
    made = GroupTensors({group: group.form_layout for group in form.groups})
    unmade = GroupTensors({group: group.hub_layout for group in form.groups})
    return sum(
        plain != name or (made.find(plain) is not None and unmade.find(plain) is None)
        for name, plain in undone.items()
    )


def _undo(names: Form, checkpoint: Checkpoint) -> Mapping[str, TensorInfo]:
    """The tensors by their hub names; refuses names that the form would not have given."""
    if not names.renames:
        return checkpoint.tensors
    hub_names = {names.undo(name): info for name, info in checkpoint.tensors.items()}
    for hub, info in hub_names.items():
        if names.apply(hub) != info.name:
            raise BadCheckpoint(
                f"tensor {quoted(info.name)} would be {quoted(hub)} on the hub, "
                f"and that is {quoted(names.apply(hub))} in the form {names.name!r}"
            )
    return hub_names


def _no_form(form: str, model_type: object, family: Family | None) -> str:
    known = f"only {', '.join(family.forms)}" if family else "no forms"
    return f"model type {quoted(str(model_type))} has no form {form!r} here, {known}"

"""Detect the form whose names the tensors of a checkpoint have."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from streamconv.catalog.families import FORMS, HUB_NAMES, Family, Form
from streamconv.catalog.layouts import NamedLayout
from streamconv.checkpoint.types import Checkpoint, TensorInfo
from streamconv.detection.group_names import GroupTensors
from streamconv.errors import BadCheckpoint, PlanRefused, quoted


def form_of(
    family: Family | None,
    names: Form,
    rows: Iterable[tuple[str, NamedLayout]],
    refused: Collection[str] = (),
    unknown: Collection[str] = (),
) -> str | None:
    """Return the form of the family that has these names and layouts, or None.

    All experts have to be in stacks of the family, including those that cannot be converted, and
    every tensor next to them, such as the router, needs a name of the family. Renames and groups of
    the form whose tensors are absent do not matter: a checkpoint may lack an MTP layer, a vision
    tower or a bias. A tensor whose name the form would give to another tensor is refused elsewhere,
    before a plan is made.

    Args:
        family: The family, if it is known.
        names: The form whose names the tensors have.
        rows: Pattern and layout of each stack that is converted.
        refused: Patterns of the experts that cannot be converted.
        unknown: Names next to the experts that are not those of the family.
    """
    stacks = tuple(rows)
    if unknown or family is None or not stacks:
        return None
    if not {*(pattern for pattern, _ in stacks), *refused} <= family.stacks.keys():
        return None
    for form in family.forms.values():
        as_here = (_is_in(family, form, pattern, row) for pattern, row in stacks)
        if (form.renames, form.groups) == (names.renames, names.groups) and all(as_here):
            return form.name
    return None


def _is_in(family: Family, form: Form, pattern: str, row: NamedLayout) -> bool:
    """Return True if a stack's layout is one of the form's, or if the form has none for it."""
    possible = family.layouts_for(pattern, form)
    return not possible or any(
        own == row or (replace(own, naming=row.naming) == row and not own.names_projections())
        for own in possible
    )


def find_names(checkpoint: Checkpoint, family: Family | None, declared_layout: str | None) -> Form:
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
            f"{quoted(record.names)}, and model type {model_type} has no such form",
            "give the file that describes the family with --family, or use a newer streamconv"
            if "model_type" in checkpoint.config
            else "add the config.json of the model, which names its model type",
        )
    if record is not None:
        return forms.get(record.names, HUB_NAMES)
    if declared_layout in FORMS:
        if declared_layout not in forms:
            known = f"only {', '.join(forms)}" if family else "no forms"
            raise PlanRefused(
                f"model type {model_type} has no form {declared_layout!r}, {known}",
                "name the layout of its experts instead; `streamconv layouts` lists them",
            )
        return forms[declared_layout]
    counts = {form.name: count_own_names(form, checkpoint.tensors) for form in forms.values()}
    likely = max(counts, key=lambda name: counts[name], default=HUB_NAMES.name)
    return forms.get(likely, HUB_NAMES)


def count_own_names(form: Form, names: Iterable[str]) -> int:
    """Count the names that differ from hub names, as only this form has them.

    Those are the names that the form renames, and the names of tensors that it makes from groups.
    The result is -1 if some tensor has a name that the form would not give.
    """
    if not form.renames and not form.groups:
        return 0
    hub_names = {name: form.undo(name) for name in names}
    if any(form.apply(hub_name) != name for name, hub_name in hub_names.items()):
        return -1
    in_form = GroupTensors({group: group.form_layout for group in form.groups})
    in_hub = GroupTensors({group: group.hub_layout for group in form.groups})
    return sum(
        hub_name != name or (in_form.find(hub_name) is not None and in_hub.find(hub_name) is None)
        for name, hub_name in hub_names.items()
    )


def undo_renames(
    names: Form, family: Family | None, checkpoint: Checkpoint
) -> Mapping[str, TensorInfo]:
    """Return the tensors by hub name.

    Raises BadCheckpoint for a name that the form never gives, and for two names of one tensor.
    """
    if not names.renames and not (family and family.aliases):
        return checkpoint.tensors
    hub_names: dict[str, TensorInfo] = {}
    for name, info in checkpoint.tensors.items():
        hub_name = names.undo(name)
        if names.apply(hub_name) != name:
            raise BadCheckpoint(
                f"tensor {quoted(name)} would be {quoted(hub_name)} on the hub, "
                f"and that is {quoted(names.apply(hub_name))} in the form {names.name!r}"
            )
        if family is not None and names.name == HUB_NAMES.name:
            hub_name = family.resolve_alias(hub_name)
        if hub_name in hub_names:
            raise BadCheckpoint(
                f"tensors {quoted(hub_names[hub_name].name)} and {quoted(name)} are two names of "
                f"one tensor of model type {quoted(str(checkpoint.config.get('model_type')))}"
            )
        hub_names[hub_name] = info
    return hub_names

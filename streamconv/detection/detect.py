"""Detect the family, form and expert stacks of a checkpoint.

The form is that of the checkpoint's record, else the one whose own names the tensors have. Which
layout a stack has is decided in `resolve_layout`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from streamconv.catalog.catalog import Catalog
from streamconv.catalog.families import FORMS, HUB_NAMES, Family, Form, Group
from streamconv.catalog.layouts import NamedLayout, Naming
from streamconv.checkpoint.config import block_from_config
from streamconv.checkpoint.types import Checkpoint, TensorInfo
from streamconv.detection.detect_form import find_names, form_of, undo_renames
from streamconv.detection.expert_counts import ExpertCounts
from streamconv.detection.experts import (
    Candidate,
    ModuleExperts,
    find_experts,
    stack_experts,
)
from streamconv.detection.layer_lists import LayerList, find_layer_lists
from streamconv.detection.resolve_layout import (
    LayoutResolver,
    recorded_layouts,
)
from streamconv.detection.stacks import Stack
from streamconv.detection.tensor_groups import (
    companions_of_groups,
    find_groups,
    groups_of,
)
from streamconv.errors import PlanRefused, quoted


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
    """Patterns of stacks whose experts are counted in config.json, or by their routers."""
    groups: tuple[Stack, ...] = ()
    """Tensors next to the experts that the family's forms store in different ways."""
    namings: Mapping[str, Naming] = field(default_factory=dict)
    """The naming that each stack gets in a layout that names its projections, by its pattern."""
    layer_lists: tuple[LayerList, ...] = ()
    """The lists of layers that a range of layers refers to."""
    hub_layouts: Mapping[str, str] = field(default_factory=dict)
    """The layout on the hub of each stack for which the hub has several, by its pattern."""

    @property
    def foreign(self) -> tuple[str, ...]:
        """Patterns of stacks whose names are not those of the family."""
        own = self.family.stacks if self.family else {}
        found = dict.fromkeys(stack.pattern for stack in self.stacks)
        return tuple(pattern for pattern in found if self.family and pattern not in own)

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
    names = find_names(checkpoint, family, declared_layout)
    recorded = recorded_layouts(checkpoint, catalog)
    hub_names = undo_renames(names, family, checkpoint)
    counts = ExpertCounts(checkpoint.config, family, hub_names)
    resolver = LayoutResolver(checkpoint, catalog, recorded, family, names, declared_layout)
    if family is not None and family.refused:
        stacks, undescribed = _refused(family, checkpoint, pass_through=pass_through)
    else:
        experts, undescribed = find_experts(
            hub_names.items(),
            catalog,
            counts.possible,
            family.naming if family and not family.naming.auto_detect else None,
            pass_through=pass_through,
        )
        choices, unresolved = _choices(resolver, experts, pass_through=pass_through)
        undescribed += unresolved
        stacks = stack_experts(choices)
        resolver.check_declared(choices)
    rows = {stack.pattern: stack.row for stack in stacks}
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
        counted=counts.check(stacks),
        groups=_groups(checkpoint, family.forms if family else {}, names, hub_names),
        namings={p: resolver.target_naming(p, row.naming) for p, row in rows.items()},
        layer_lists=find_layer_lists((*rows, *undescribed), hub_names, checkpoint.config, family),
        hub_layouts=_hub_layouts(checkpoint, family, rows),
    )


def _hub_layouts(
    checkpoint: Checkpoint, family: Family | None, rows: Mapping[str, NamedLayout]
) -> dict[str, str]:
    """Return the layout of each stack on the hub, if the hub has several for it.

    It is the layout that the stack was made from by the record, else its own if that is one of
    them, else the first of them.
    """
    recorded = checkpoint.record.stacks if checkpoint.record else {}
    chosen = {}
    for pattern, row in rows.items() if family else ():
        layouts = family.forms[HUB_NAMES.name].layouts_of(pattern) if family else ()
        possible = [layout.name for layout in layouts]
        made_from = recorded[pattern].hub_layout if pattern in recorded else None
        likely = (name for name in (made_from, row.layout.name) if name in possible)
        if len(possible) > 1:
            chosen[pattern] = str(next(likely, possible[0]))
    return chosen


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

"""Detect the family, form and expert stacks of a checkpoint.

The form is that of the checkpoint's record, else the one whose own names the tensors have. Which
layout a stack has is decided in `resolve_layout`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from streamconv.catalog.catalog import Catalog
from streamconv.catalog.families import FORMS, HUB_NAMES, Family, Form
from streamconv.catalog.groups import Group
from streamconv.catalog.layouts import NamedLayout, Naming
from streamconv.checkpoint.types import Checkpoint, TensorInfo
from streamconv.detection.detect_form import find_names, form_of, undo_renames
from streamconv.detection.expert_counts import ExpertCounts
from streamconv.detection.expert_names import naming_without_gate
from streamconv.detection.experts import (
    Candidate,
    ModuleExperts,
    find_experts,
    stack_experts,
)
from streamconv.detection.group_names import companions_of_groups, groups_of
from streamconv.detection.layer_lists import LayerList, find_layer_lists
from streamconv.detection.next_to_experts import unknown_next_to_experts
from streamconv.detection.refusals import Refusal, Refusals
from streamconv.detection.resolve_layout import (
    LayoutResolver,
    recorded_layouts,
)
from streamconv.detection.stacks import Stack
from streamconv.detection.tensor_groups import stored_groups
from streamconv.errors import BadCheckpoint, PlanRefused, quoted
from streamconv.quantization.announcement import announcements, stated_block


@dataclass(frozen=True, slots=True)
class Detected:
    """A checkpoint in the terms of a catalog."""

    catalog: Catalog
    """The known layouts and families."""
    family: Family | None
    """The family that has the model type, or None."""
    model_type: str
    """The `model_type` of config.json; empty if there is none."""
    names: Form
    """The form whose names the tensors have."""
    form: str | None
    """The form of the whole checkpoint, or None if it has none."""
    stacks: tuple[Stack, ...]
    """The expert stacks that can be converted, each with its layout."""
    hub_names: Mapping[str, TensorInfo]
    """Every tensor by its hub name, in the checkpoint's order."""
    block: tuple[int, int] | None = None
    """Rows and columns of a block of scales, if config.json gives them."""
    refusals: Mapping[str, Refusal] = field(default_factory=dict)
    """Why experts cannot be converted, by the pattern of their modules."""
    counted: frozenset[str] = frozenset()
    """Patterns of stacks whose number of experts config.json or their routers confirm."""
    groups: tuple[Stack, ...] = ()
    """Tensors next to the experts that the family's forms store in different ways."""
    namings: Mapping[str, Naming] = field(default_factory=dict)
    """By the pattern of each stack, the naming for layouts that name the projections."""
    not_found: tuple[str, ...] = ()
    """What config.json says of experts, if none were found: `num_experts = 128`."""
    layer_lists: tuple[LayerList, ...] = ()
    """The lists of layers that a range of layers refers to."""
    unknown_names: tuple[str, ...] = ()
    """Tensors next to experts under names that the model type does not have."""
    hub_layouts: Mapping[str, str] = field(default_factory=dict)
    """The layout on the hub of each stack for which the hub has several, by its pattern."""

    def __repr__(self) -> str:
        layouts = (stack.row.layout.name for stack in self.stacks)
        found = ", ".join(dict.fromkeys(layouts)) or "no expert stack"
        return f"<Detected {quoted(self.model_type)}: form {self.form}, {found}>"

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
        """Yield each companion of a group's tensor that is in no group itself, with that group."""
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
        pass_through: True to collect the reasons why experts cannot be converted; False to raise
            the first of them.

    Raises:
        BadCheckpoint: The checkpoint records a layout that is not in the catalog; or, without
            `pass_through`, experts are incomplete or contradict config.json.
        PlanRefused: The checkpoint contradicts `declared_layout`; or, without `pass_through`, a
            layout is ambiguous, or no layout describes some experts.
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
    refusals = Refusals(collects=pass_through)
    stacks: tuple[Stack, ...] = ()
    if family is not None and family.refused:
        _refuse(family, checkpoint, refusals)
    else:
        naming = family.naming if family and not family.naming.auto_detect else None
        if family is None:
            naming = naming_without_gate(hub_names, catalog)
        experts = find_experts(hub_names.items(), catalog, counts.possible, naming, refusals)
        choices = _choices(resolver, experts, refusals)
        stacks = _stacks(choices, refusals)
        resolver.check_declared(choices)
    counted = counts.check(stacks, refusals)
    stacks = tuple(stack for stack in stacks if stack.pattern not in refusals)
    rows = {stack.pattern: stack.row for stack in stacks}
    stated = checkpoint.config.get("model_type")
    model_type = stated if isinstance(stated, str) else ""
    unknown = unknown_next_to_experts(family, model_type, hub_names, stacks)
    return Detected(
        catalog=catalog,
        family=family,
        model_type=model_type,
        names=names,
        form=form_of(
            family,
            names,
            ((stack.pattern, stack.row) for stack in stacks),
            refusals.by_pattern(),
            unknown,
        ),
        stacks=stacks,
        hub_names=hub_names,
        block=stated_block(announcements(checkpoint.config, checkpoint.quant_config)),
        refusals=refusals.by_pattern(),
        counted=counted,
        groups=stored_groups(checkpoint, family.forms if family else {}, names, hub_names),
        namings={p: resolver.target_naming(p, row.naming) for p, row in rows.items()},
        layer_lists=find_layer_lists(
            (*rows, *refusals.by_pattern()), hub_names, checkpoint.config, family
        ),
        unknown_names=unknown,
        hub_layouts=_hub_layouts(checkpoint, family, rows),
        not_found=() if rows or refusals.by_pattern() else counts.stated(),
    )


def _hub_layouts(
    checkpoint: Checkpoint, family: Family | None, rows: Mapping[str, NamedLayout]
) -> dict[str, str]:
    """Return the layout of each stack on the hub, if the hub has several for it.

    It is the layout that the stack was made from according to the record, else the layout that the
    stack has if the hub has it, else the first of the hub's.
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
    resolver: LayoutResolver, experts: Iterable[ModuleExperts], refusals: Refusals
) -> list[Candidate]:
    """Return the layout of each module, and refuse those whose layout cannot be resolved."""
    choices: list[Candidate] = []
    for module in experts:
        try:
            choices.append(resolver.choose(module))
        except (BadCheckpoint, PlanRefused) as error:
            refusals.add(module.pattern, error)
    return choices


def _stacks(choices: Iterable[Candidate], refusals: Refusals) -> tuple[Stack, ...]:
    """Return the stacks of the modules that are not refused, and refuse those that are not alike.

    The modules of a pattern are converted together or not at all.
    """
    by_pattern: dict[str, list[Candidate]] = {}
    for choice in choices:
        by_pattern.setdefault(choice.pattern, []).append(choice)
    stacks: list[Stack] = []
    for pattern, alike in by_pattern.items():
        try:
            stacks += () if pattern in refusals else stack_experts(alike)
        except BadCheckpoint as error:
            refusals.add(pattern, error)
    return tuple(stacks)


def _refuse(family: Family, checkpoint: Checkpoint, refusals: Refusals) -> None:
    """Refuse the experts of a family that are never converted."""
    for pattern in family.stacks:
        refusals.add(
            pattern,
            PlanRefused(
                f"cannot convert model type {quoted(str(checkpoint.config.get('model_type')))}: "
                f"{family.refused}",
                "add --pass-through to copy its experts as they are",
            ),
        )

"""What a checkpoint is: its family, the form whose names it has, its expert stacks. Pure.

A layout comes from what the source's record says; else from names and shapes, where exactly one
row fits; else from the form whose renames the names show; else from `--from`. What is still open
is an error: a layout is never guessed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from streamconv.casts import stated_block
from streamconv.checkpoint import Checkpoint, TensorInfo
from streamconv.errors import BadCheckpoint, PlanRefused, quoted
from streamconv.experts import find_stacks
from streamconv.families import COUNT_KEYS, FORMS, HUB_NAMES, Family, Form, family_of
from streamconv.groups import Members, find_groups, groups_of
from streamconv.layouts import Row, find_layout, namings
from streamconv.stacks import Stack

TEXT_SECTIONS = ("", "text_config", "llm_config", "language_config")
"""Where the config of an unknown model type may describe its language model."""


@dataclass(frozen=True, slots=True)
class Recognised:
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
    untold: tuple[str, ...] = ()
    """Patterns of modules that no layout describes, and that stay as they are."""
    counted: frozenset[str] = frozenset()
    """Patterns of stacks whose experts the config counts."""
    groups: tuple[Stack, ...] = ()
    """Other tensors that some form of the family stores otherwise than another."""


def recognise(
    checkpoint: Checkpoint, stated: str | None = None, *, pass_through: bool = False
) -> Recognised:
    """What `checkpoint` is; `stated` is the form or layout that the user says it has.

    Experts that no layout describes are refused, or left as they are with `pass_through`. Raises
    BadCheckpoint where experts are incomplete or contradict the config, PlanRefused where a
    layout cannot be told, UsageError for a `stated` that does not exist.
    """
    model_type = checkpoint.config.get("model_type")
    family = family_of(model_type)
    if stated is not None and stated not in FORMS:
        find_layout(stated)
    names = _names(checkpoint, family, stated)
    hub_names = _undo(names, checkpoint)
    settle = _Settle(checkpoint, family, names, stated)
    untold: list[str] = []
    if family is not None and family.refused:
        if not pass_through:
            raise PlanRefused(
                f"model type {quoted(str(model_type))} is not converted: {family.refused}",
                "--pass-through copies its experts as they are",
            )
        stacks: tuple[Stack, ...] = ()
        untold += family.stacks
    else:
        stacks = find_stacks(
            hub_names.items(),
            settle,
            lambda pattern: _counted(checkpoint.config, family, pattern),
            family.naming if family and not family.naming.anywhere else None,
            untold if pass_through else None,
        )
    settle.check_stated()
    alone = len({stack.pattern for stack in stacks}) == 1
    for stack in stacks:
        _check_count(checkpoint.config, family, stack, alone=alone)
    rows = {stack.pattern: stack.row for stack in stacks}
    return Recognised(
        family=family,
        model_type=model_type if isinstance(model_type, str) else "",
        names=names,
        form=form_of(family, names, rows),
        stacks=stacks,
        hub_names=hub_names,
        block=stated_block(checkpoint.config),
        untold=tuple(untold),
        counted=frozenset(
            pattern for pattern in rows if _counted(checkpoint.config, family, pattern) is not None
        ),
        groups=find_groups(
            hub_names,
            {group: names.row_of(group) for group in groups_of(family.forms if family else {})},
            checkpoint.config,
        ),
    )


def form_of(family: Family | None, names: Form, rows: Mapping[str, Row]) -> str | None:
    """The form of the family that has these names and rows, or None."""
    if family is None or not rows:
        return None
    for form in family.forms.values():
        as_here = (family.row_of(pattern, form) in (row, None) for pattern, row in rows.items())
        if (form.renames, form.groups) == (names.renames, names.groups) and all(as_here):
            return form.name
    return None


def _names(checkpoint: Checkpoint, family: Family | None, stated: str | None) -> Form:
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
    if stated in FORMS:
        if stated not in forms:
            raise PlanRefused(_no_form(stated, checkpoint.config.get("model_type"), family))
        return forms[stated]
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
    made = Members({group: group.here for group in form.groups})
    unmade = Members({group: group.plain for group in form.groups})
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


class _Settle:
    """Decides which of the layouts that fit a stack it has."""

    def __init__(
        self, checkpoint: Checkpoint, family: Family | None, names: Form, stated: str | None
    ) -> None:
        self._checkpoint = checkpoint
        self._family = family
        self._names = names
        self._stated = stated
        self._settled: dict[str, str] = {}

    def __call__(self, pattern: str, fits: tuple[Row, ...], looks: str) -> Row:
        where = f"{quoted(pattern)}experts ({quoted(looks)})"
        if not fits:
            raise BadCheckpoint(f"{where} fits no layout: the shapes of its weights disagree")
        by_layout = {row.layout.name: row for row in fits}
        layout = self._layout(pattern, where, tuple(by_layout))
        self._settled[pattern] = layout
        return Row(by_layout[layout].layout, self._naming(pattern, by_layout[layout]).naming)

    def check_stated(self) -> None:
        """Refuse what `--from` says where the checkpoint itself says something else."""
        said = {pattern: self._stated_layout(pattern) for pattern in self._settled}
        wrong = {p: layout for p, layout in said.items() if layout not in (None, self._settled[p])}
        if wrong and (self._stated in FORMS or len(wrong) == len(said)):
            pattern, layout = next(iter(wrong.items()))
            raise PlanRefused(
                f"{quoted(pattern)}experts of {self._checkpoint.location} is "
                f"{self._settled[pattern]}, --from says {layout}"
            )

    def _layout(self, pattern: str, where: str, fits: tuple[str, ...]) -> str:
        recorded = self._recorded(pattern)
        if recorded is not None:
            if recorded.layout.name not in fits:
                raise BadCheckpoint(
                    f"{where} is {recorded.layout.name} by its record, "
                    f"its shapes fit {' and '.join(fits)}"
                )
            return recorded.layout.name
        if len(fits) == 1:
            return fits[0]
        evident = self._names.layout_of(pattern)
        for known in (evident.name if evident else None, self._stated_layout(pattern)):
            if known in fits:
                return str(known)
        raise PlanRefused(
            f"{where} fits {' and '.join(fits)} alike, and nothing in the checkpoint says which",
            f"say which with --from {fits[0]}",
        )

    def _recorded(self, pattern: str) -> Row | None:
        record = self._checkpoint.record
        return record.stacks.get(pattern) if record else None

    def _stated_layout(self, pattern: str) -> str | None:
        if self._stated not in FORMS:
            return self._stated
        form = self._family.forms.get(self._stated) if self._family else None
        layout = form.layout_of(pattern) if form else None
        return layout.name if layout else None

    def _naming(self, pattern: str, fit: Row) -> Row:
        """The row under the naming that its names, the record or the family tell."""
        recorded = self._recorded(pattern)
        if fit.names_projections():
            return fit
        if recorded is not None:
            return recorded
        return Row(
            fit.layout, self._family.naming if self._family else next(iter(namings().values()))
        )


def _check_count(
    config: Mapping[str, Any], family: Family | None, stack: Stack, alone: bool
) -> None:
    """Hold the experts found against what the config counts, where it does."""
    section = family.stacks.get(stack.pattern) if family else None
    for path in (section,) if section is not None else TEXT_SECTIONS if alone else ():
        for key, count in _counts(config, path):
            if count != stack.sizes["e"]:
                raise BadCheckpoint(
                    f"{quoted(stack.pattern)}experts holds {stack.sizes['e']} experts, "
                    f"config.json says {'.'.join(filter(None, (path, key)))} = {count}"
                )


def _counted(config: Mapping[str, Any], family: Family | None, pattern: str) -> int | None:
    """How many experts the config counts in the modules of a pattern, where the family tells."""
    section = family.stacks.get(pattern) if family else None
    counts = _counts(config, section) if section is not None else ()
    return next((count for _, count in counts), None)


def _counts(config: Mapping[str, Any], path: str) -> Iterator[tuple[str, int]]:
    """The numbers of experts in a section of the config, by what they are called there."""
    fields: Any = config
    for key in filter(None, path.split(".")):
        fields = fields.get(key) if isinstance(fields, Mapping) else None
    for key in COUNT_KEYS if isinstance(fields, Mapping) else ():
        count = fields.get(key)
        if type(count) is int:
            yield key, count

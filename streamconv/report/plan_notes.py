"""Facts and notes about a plan in words, for tables and JSON alike."""

from collections.abc import Iterable, Iterator
from typing import Any

from streamconv.catalog.renames import Rename
from streamconv.catalog.templates import EXPERT
from streamconv.checkpoint.not_carried_over import not_carried_over_notes
from streamconv.checkpoint.tensor_names import summarize_names
from streamconv.detection.kinds import name_notes
from streamconv.errors import quoted
from streamconv.formats.json_edit import REMOVED, Edit
from streamconv.planning.plan import Plan
from streamconv.planning.target import Target


def target_line(target: Target) -> str:
    """Return the chosen target and the reason, in a line."""
    form = "" if target.form in (None, target.asked) else f", which is the form {target.form}"
    return f"{target.asked}{form} ({target.why})"


def format_line(plan: Plan) -> str:
    """Return the format of the output files, and how it changes names."""
    return ", ".join([plan.format.name, *plan.format.facts])


def notes_of(plan: Plan) -> Iterator[str]:
    """Yield notes that a user should read before using the result."""
    yield from plan.target.warnings
    for line in _edit_lines(plan, plan.config.omitted) if plan.has_config else ():
        yield f"config.json is kept as it is, without this change: {line}"
    yield from plan.config.notes
    yield from name_notes(plan.source)
    yield from _uneven(plan)
    template = plan.checkpoint.template
    if template and template.unknown:
        yield (f"converted although the template lacks them: {summarize_names(template.unknown)}")
    yield from not_carried_over_notes(plan.checkpoint, plan.others)


def _uneven(plan: Plan) -> Iterator[str]:
    """Yield a note for each pattern whose layers have different numbers of experts."""
    counts: dict[str, set[int]] = {}
    for stack in plan.source.stacks:
        counts.setdefault(stack.pattern, set()).add(stack.sizes[EXPERT])
    for pattern, found in counts.items():
        if len(found) > 1:
            yield (
                f"the layers of {quoted(pattern)}experts have {min(found)} to {max(found)} "
                "experts, as their routers do; transformers has one number for all layers"
            )


def config_edits(plan: Plan) -> list[dict[str, Any]]:
    """Return the changes of config.json as JSON: the key, and its value before and after.

    The list is empty if config.json is not written.
    """
    edits = plan.config.edits if plan.has_config else ()
    return [
        {
            "key": ".".join(edit.path),
            "removed": edit.new is REMOVED,
            "from": _old(plan, edit),
            "to": None if edit.new is REMOVED else edit.new,
        }
        for edit in edits
    ]


def _old(plan: Plan, edit: Edit) -> Any:
    """Return the old value of an edit; None if the edit removes or adds a key."""
    config = plan.checkpoint.config
    return None if edit.new is REMOVED or edit.adds(config) else edit.old(config)


def config_line(plan: Plan) -> str:
    """Return the changes of config.json in a line; empty if there are none."""
    return ", ".join(_edit_lines(plan, plan.config.edits if plan.has_config else ()))


def _edit_lines(plan: Plan, edits: Iterable[Edit]) -> Iterator[str]:
    """Yield each change of config.json in words."""
    for edit in edits:
        key, old, new = quoted(".".join(edit.path)), _old(plan, edit), edit.new
        if new is REMOVED:
            yield f"{key} is removed"
        elif isinstance(new, dict):
            done = "is added" if old is None else "is replaced"
            yield f"{key} {done}: {quoted(_described(new))}"
        elif isinstance(new, list):
            yield f"{key} has {len(new)} items instead of {len(old)}"
        else:
            yield f"{key} is {quoted(str(new))} instead of {quoted(str(old))}"


def _described(section: dict[str, Any]) -> str:
    """Return the method and the format that a section of config.json names."""
    return ", ".join(str(section[key]) for key in ("quant_method", "format") if key in section)


def passed_through(plan: Plan) -> dict[str, str]:
    """Return the tensors that are copied because they cannot be converted, with the reason."""
    refused = {f"{p}experts": refusal.message for p, refusal in plan.source.refusals.items()}
    return {**plan.target.kept, **refused}


def renames(plan: Plan) -> list[str]:
    """Return the renames between source and output that rename a tensor, as `thinker.* -> *`."""
    source, target = plan.source.names, plan.target.names
    if source.renames == target.renames:
        return []
    undone, done = set[Rename](), set[Rename]()
    for hub_name, info in plan.source.hub_names.items():
        if target.apply(hub_name) != info.name:
            undone.update(source.renames_of(hub_name))
            done.update(target.renames_of(hub_name))
    return [
        *(
            f"{rename.form_name} -> {rename.hub_name}"
            for rename in source.renames
            if rename in undone
        ),
        *(
            f"{rename.hub_name} -> {rename.form_name}"
            for rename in target.renames
            if rename in done
        ),
    ]


def renamed(plan: Plan) -> Iterable[tuple[str, str]]:
    """Yield the source and output names of each tensor that is copied under another name."""
    for shard in plan.shards:
        for step in shard.steps:
            if not step.module and step.inputs[0].name != step.name:
                yield step.inputs[0].name, step.name


def regrouped(plan: Plan) -> Iterator[str]:
    """Yield the templates, source and output, of other tensors that are joined or split."""
    for stack in plan.source.groups:
        row = plan.target.layout_for(stack)
        if row != stack.row:
            for weight, template in stack.row.layout.templates.items():
                yield f"{stack.pattern}{template} -> {row.layout.templates[weight]}"

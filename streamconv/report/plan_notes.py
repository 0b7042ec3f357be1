"""What there is to say of a plan besides its numbers, for tables and JSON alike. Pure."""

from collections.abc import Iterable, Iterator

from streamconv.checkpoint.casting import notes
from streamconv.checkpoint.types import summarize_names
from streamconv.planning.plan import Plan
from streamconv.planning.target import Target


def written(plan: Plan) -> str:
    """The format of the output's files, and what it makes of names."""
    return ", ".join([plan.format.name, *plan.format.facts])


def notes_of(plan: Plan) -> Iterator[str]:
    """What to know of a plan before its result is used."""
    yield from notes(plan.checkpoint.config, plan.casting)
    template = plan.checkpoint.template
    if template and template.unknown:
        yield (
            f"the template does not have {len(template.unknown):,} of the tensors, "
            f"which are converted all the same: {summarize_names(template.unknown)}"
        )


def passed_through(plan: Plan) -> dict[str, str]:
    """The stacks that stay as they are because they cannot be converted, each with the reason."""
    undescribed = dict.fromkeys(plan.source.undescribed, "no layout describes them")
    return {
        f"{pattern}experts": why for pattern, why in {**plan.target.kept, **undescribed}.items()
    }


def renames(plan: Plan) -> list[str]:
    """The renames between source and output, as `thinker.* -> *`."""
    source, target = plan.source.names, plan.target.names
    if source.renames == target.renames:
        return []
    undone = [f"{rename.form_name} -> {rename.hub_name}" for rename in source.renames]
    return undone + [f"{rename.hub_name} -> {rename.form_name}" for rename in target.renames]


def renamed(plan: Plan) -> Iterable[tuple[str, str]]:
    """Source and output name of each tensor that is copied under another name."""
    for shard in plan.shards:
        for step in shard.steps:
            if not step.module and step.inputs[0].name != step.name:
                yield step.inputs[0].name, step.name


def regrouped(plan: Plan) -> Iterator[str]:
    """The tensors beside the experts that are joined, split or turned: from what to what."""
    for stack in plan.source.groups:
        row = plan.target.layout_for(stack)
        if row != stack.row:
            for weight, template in stack.row.layout.templates.items():
                yield f"{stack.pattern}{template} -> {row.layout.templates[weight]}"


def why(target: Target) -> str:
    """What was chosen, and the reason, in a line."""
    form = "" if target.form in (None, target.asked) else f", which is the form {target.form}"
    return f"{target.asked}{form} ({target.why})"

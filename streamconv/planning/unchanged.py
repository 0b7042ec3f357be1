"""Refuse a conversion whose output would be its input.

The output is the input if it has the same tensors, under the same names, with the same bytes, in
the same format, next to the same config. Which file a tensor is in counts only if the user asked
for a shard size. A manifest alone is no reason to write a checkpoint again.
"""

from collections.abc import Iterator

from streamconv.catalog.families import FORMS, SAME
from streamconv.errors import PlanRefused
from streamconv.options import Options
from streamconv.planning.plan import Plan
from streamconv.planning.steps import Step


def check_changed(plan: Plan, options: Options) -> None:
    """Raise PlanRefused if the output of a plan would be its input, unless a copy was asked for.

    Args:
        plan: The conversion.
        options: What the user asked for.
    """
    if options.get("copy") or not _is_unchanged(plan, options):
        return
    raise PlanRefused(
        f"cannot convert {plan.checkpoint.location}: it is already {_state(plan, options)}: "
        "nothing to convert",
        "add --copy to copy it, or ask for another layout, dtype, format or shard size",
    )


def _is_unchanged(plan: Plan, options: Options) -> bool:
    checkpoint = plan.checkpoint
    passes_through = plan.source.refusals or plan.target.kept
    return (
        plan.format.name == checkpoint.format
        and checkpoint.template is None
        and not plan.config.edits
        and not (checkpoint.renames or checkpoint.added or checkpoint.unindexed)
        and not (checkpoint.format == "dcp" and _names_keys(options))
        and not (passes_through and options.get("pass_through"))
        and sum(len(shard.steps) for shard in plan.shards) == len(checkpoint.tensors)
        and all(_is_same_tensor(step) for shard in plan.shards for step in shard.steps)
        and not (options.get("max_shard_size") and _is_resharded(plan))
    )


def _names_keys(options: Options) -> bool:
    """Return True if the user gives prefixes for the keys of a DCP."""
    return any(options.get(name) is not None for name in ("preset", "hf_prefix", "dcp_prefix"))


def _is_same_tensor(step: Step) -> bool:
    info = step.inputs[0]
    stored = (info.name, info.dtype, info.shape)
    return (
        info.cast is None
        and len(step.inputs) == 1
        and step.is_copy
        and stored == (step.name, step.dtype, step.shape)
    )


def _is_resharded(plan: Plan) -> bool:
    """Return True if a tensor would be in a file of another name."""
    return any(step.inputs[0].file != shard.name for shard in plan.shards for step in shard.steps)


def _state(plan: Plan, options: Options) -> str:
    """Return what the checkpoint already is, in the words of what was asked for."""
    return ", ".join(_asked(plan, options)) or "as it would be written"


def _asked(plan: Plan, options: Options) -> Iterator[str]:
    asked = plan.target.asked
    if asked != SAME:
        target = f"in the form {asked}" if asked in FORMS else asked
        yield target if plan.source.stacks else f"{target}, as it holds no experts"
    dtype = options.get("dtype")
    if dtype:
        yield f"in {dtype}"
    if options.get("layers"):
        yield f"limited to the layers {plan.record.layers}"
    if options.get("format"):
        yield f"in {plan.format.name}"
    if options.get("max_shard_size"):
        yield f"in files of {options['max_shard_size']}"

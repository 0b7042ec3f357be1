"""A plan as JSON fields."""

from collections.abc import Sequence
from typing import Any

from streamconv.checkpoint.cast_summary import cast_rows, protected_names
from streamconv.checkpoint.tensor_names import pattern_of
from streamconv.planning.plan import Plan
from streamconv.planning.removal import Removal
from streamconv.planning.steps import Step
from streamconv.report.checkpoint_json import file_fields, source_fields
from streamconv.report.plan_notes import (
    config_edits,
    notes_of,
    passed_through,
    regrouped,
    renamed,
    renames,
)
from streamconv.report.schema import document


def plan_fields(
    plan: Plan,
    free_disk: int | None,
    rate: int | None = None,
    removals: Sequence[Removal] = (),
) -> dict[str, Any]:
    """Build the document of `--dry-run --json`.

    Args:
        plan: The plan of a conversion.
        free_disk: Free bytes on the disk of the target; None if unknown.
        rate: Bytes read per second, to estimate the duration; None for no estimate.
        removals: The files that the conversion will remove.
    """
    memory = plan.memory
    fields = {
        "source": source_fields(plan.checkpoint, plan.source),
        "target": target_fields(plan),
        "shards": shard_fields(plan),
        "steps": [step_fields(step, shard.name) for shard in plan.shards for step in shard.steps],
        "tensors": sum(len(shard.steps) for shard in plan.shards),
        "data_bytes": plan.data_bytes,
        "write_bytes": plan.write_bytes,
        "read_bytes": plan.read_bytes,
        "transfer_bytes": plan.transfer_bytes,
        "rate_bytes_per_second": rate,
        "seconds_at_rate": None if rate is None else round(plan.read_bytes / rate, 3),
        "free_disk_bytes": free_disk,
        "removes": [{"path": each.path, "bytes": each.nbytes} for each in removals],
        "memory": {
            "projected_peak_bytes": memory.peak,
            "allowed_bytes": memory.allowed,
            "base_bytes": memory.base,
            "jobs": memory.jobs,
            "jobs_why": memory.why,
            "source_buffer_bytes": memory.source_buffer,
            "staging_buffer_bytes": memory.staging,
            "cast_buffer_bytes": memory.casts,
            "read_ahead_bytes": memory.read_ahead,
        },
    }
    return document("plan", fields)


def step_fields(step: Step, shard: str) -> dict[str, Any]:
    """Describe an output tensor and how it is made."""
    return {
        "name": step.name,
        "shard": shard,
        "dtype": step.dtype,
        "shape": list(step.shape),
        "bytes": step.nbytes,
        "inputs": len(step.inputs),
        "how": "copy" if step.is_copy else "rearrange",
        "cast": _cast_fields(step),
    }


def _cast_fields(step: Step) -> dict[str, Any] | None:
    """Describe how the inputs of a step are stored, if their dtype changes."""
    cast = step.inputs[0].cast
    if cast is None or cast.is_view:
        return None
    if cast.encoding is not None:
        return {
            "from": cast.stored.dtype,
            "format": cast.encoding.name,
            "scales": cast.encoding.scales,
            "block": list(cast.encoding.block),
        }
    scale = cast.decoding and cast.decoding.plane("scale")
    return {
        "from": cast.stored.dtype,
        "format": cast.decoding and cast.decoding.format,
        "scales": scale and scale.dtype,
        "block": list(scale.block) if scale else None,
    }


def shard_fields(plan: Plan) -> list[dict[str, Any]]:
    """Describe the output files in order."""
    return [
        {"name": shard.name, "bytes": shard.nbytes, "tensors": len(shard.steps)}
        for shard in plan.shards
    ]


def target_fields(plan: Plan) -> dict[str, Any]:
    """Describe the output: its form and layouts, and what is cast, renamed and left out."""
    target = plan.target
    not_cast = protected_names(plan.inputs, plan.casting, plan.source.family)
    return {
        "asked": target.asked,
        "why": target.why,
        "form": target.form,
        "format": plan.format.name,
        "layers": plan.record.layers,
        "stacks": {
            f"{pattern}experts": row.layout.name for pattern, row in sorted(target.rows.items())
        },
        "casts": cast_rows(plan.inputs),
        "not_cast": {kind: len(names) for kind, names in not_cast.items()},
        "not_cast_tensors": {
            kind: sorted({pattern_of(name) for name in names}) for kind, names in not_cast.items()
        },
        "config_edits": config_edits(plan),
        "notes": list(notes_of(plan)),
        "renames": renames(plan),
        "renamed_tensors": sum(1 for _ in renamed(plan)),
        "regrouped": list(regrouped(plan)),
        "unchanged_stacks": [
            f"{stack.pattern}experts"
            for stack in plan.source.stacks
            if target.layout_for(stack) == stack.row
        ],
        "passed_through": passed_through(plan),
        "left_behind": [file_fields(o) for o in plan.others if o.skip_reason],
    }

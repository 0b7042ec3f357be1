"""A plan, an inspection and a result as JSON fields, as `schema.json` describes them. Pure."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.listing import family_rows, layout_rows
from streamconv.checkpoint.casting import cast_rows, protected_rows
from streamconv.checkpoint.types import Checkpoint, OtherFile, ReferenceCheckpoint
from streamconv.detection.detect import Detected
from streamconv.detection.stacks import Stack
from streamconv.planning.plan import Plan
from streamconv.planning.steps import Step
from streamconv.report.plan_notes import notes_of, passed_through, regrouped, renamed, renames
from streamconv.verification.result import Verification

if TYPE_CHECKING:
    from streamconv.execution.result import Result
    from streamconv.verification.transformers_load import Loading

SCHEMA_VERSION = 2
"""Grows when a field changes its meaning or goes; new fields come without notice."""


def inspection_fields(checkpoint: Checkpoint, found: Detected) -> dict[str, Any]:
    """What `inspect --json` prints."""
    return {"schema": SCHEMA_VERSION, "kind": "inspection", **_source_fields(checkpoint, found)}


def families_fields() -> dict[str, Any]:
    """What `families --json` prints."""
    return {
        "schema": SCHEMA_VERSION,
        "kind": "families",
        "families": list(family_rows(default_catalog())),
    }


def layouts_fields() -> dict[str, Any]:
    """What `layouts --json` prints."""
    return {
        "schema": SCHEMA_VERSION,
        "kind": "layouts",
        "layouts": list(layout_rows(default_catalog())),
    }


def plan_fields(plan: Plan, free_disk: int | None, rate: int | None = None) -> dict[str, Any]:
    """What `--dry-run --json` prints; `free_disk` in bytes, where the output would go.

    `rate` is bytes a second that are read, for how long that would take.
    """
    memory = plan.memory
    return {
        "schema": SCHEMA_VERSION,
        "kind": "plan",
        "source": _source_fields(plan.checkpoint, plan.source),
        "target": _target_fields(plan),
        "shards": _shard_fields(plan),
        "steps": [step_fields(step, shard.name) for shard in plan.shards for step in shard.steps],
        "tensors": sum(len(shard.steps) for shard in plan.shards),
        "data_bytes": plan.data_bytes,
        "write_bytes": plan.write_bytes,
        "read_bytes": plan.read_bytes,
        "transfer_bytes": plan.transfer_bytes,
        "rate_bytes_per_second": rate,
        "seconds_at_rate": None if rate is None else round(plan.read_bytes / rate, 3),
        "free_disk_bytes": free_disk,
        "memory": {
            "projected_peak_bytes": memory.peak,
            "allowed_bytes": memory.allowed,
            "base_bytes": memory.base,
            "jobs": memory.jobs,
            "source_buffer_bytes": memory.source_buffer,
            "staging_buffer_bytes": memory.staging,
            "cast_buffer_bytes": memory.casts,
        },
    }


def result_fields(result: "Result") -> dict[str, Any]:
    """What a conversion prints with `--json` when it is done."""
    plan = result.plan
    return {
        "schema": SCHEMA_VERSION,
        "kind": "result",
        "path": str(result.path),
        "target": _target_fields(plan),
        "shards": _shard_fields(plan),
        "tensors": sum(len(shard.steps) for shard in plan.shards),
        "data_bytes": plan.data_bytes,
        "seconds": round(result.seconds, 3),
        "peak_memory_bytes": result.peak_memory,
        "projected_peak_bytes": plan.memory.peak,
        "verification": verification_fields(result.verification) if result.verification else None,
    }


def verification_fields(verification: Verification) -> dict[str, Any]:
    """What `verify --json` prints."""
    return {
        "schema": SCHEMA_VERSION,
        "kind": "verification",
        "path": verification.path,
        "source": verification.source,
        "ok": verification.ok,
        "checked_bytes": verification.checked_bytes,
        "difference_count": verification.difference_count,
        "differences": [
            {
                "subject": difference.subject,
                "expert": difference.expert,
                "projection": difference.projection or None,
                "detail": difference.detail,
            }
            for difference in verification.differences
        ],
        "unchecked": list(verification.unchecked),
        "sha256": dict(verification.sha256),
        "seconds": round(verification.seconds, 3),
        "peak_memory_bytes": verification.peak_memory,
    }


def loading_fields(location: str, found: "Loading") -> dict[str, Any]:
    """What `check --json` prints."""
    return {
        "schema": SCHEMA_VERSION,
        "kind": "loading",
        "location": location,
        "model": found.model,
        "keys": found.keys,
        "clean": found.is_clean,
        "missing": list(found.missing),
        "unexpected": list(found.unexpected),
        "mismatched": [
            {"key": key, "checkpoint": list(here), "model": list(there)}
            for key, here, there in found.mismatched
        ],
        "failed": [{"key": key, "error": error} for key, error in found.failed],
        "damage": found.damage or None,
    }


def step_fields(step: Step, shard: str) -> dict[str, Any]:
    """One output tensor of a plan."""
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
    """What its inputs are stored as, where that is another dtype."""
    cast = step.inputs[0].cast
    if cast is None:
        return None
    block = list(cast.block) if cast.scales else None
    return {"from": cast.stored.dtype, "scales": cast.scales and cast.scales.dtype, "block": block}


def _shard_fields(plan: Plan) -> list[dict[str, Any]]:
    return [
        {"name": shard.name, "bytes": shard.nbytes, "tensors": len(shard.steps)}
        for shard in plan.shards
    ]


def _source_fields(checkpoint: Checkpoint, found: Detected) -> dict[str, Any]:
    stacked = {
        stored.name
        for stack in found.stacks
        for module in stack.modules
        for infos in module.tensors.values()
        for info in infos
        for stored in info.stored
    }
    others = [info for info in checkpoint.tensors.values() if info.name not in stacked]
    return {
        "location": checkpoint.location,
        "revision": checkpoint.revision,
        "model_type": found.model_type or None,
        "family": found.family.name if found.family else None,
        "form": found.form,
        "names": found.names.name,
        "format": checkpoint.format,
        "layers": checkpoint.record.layers if checkpoint.record else None,
        "template": _template_fields(checkpoint.template),
        "files": len(checkpoint.files),
        "file_bytes": sum(file.size for file in checkpoint.files),
        "tensors": len(checkpoint.tensors),
        "tensor_bytes": checkpoint.total_bytes,
        "dtypes": dict(Counter(info.dtype for info in checkpoint.tensors.values())),
        "stacks": [stack_fields(stack) for stack in found.stacks],
        "other_tensors": len(others),
        "other_tensor_bytes": sum(info.nbytes for info in others),
        "other_files": [_file_fields(other) for other in checkpoint.others],
    }


def stack_fields(stack: Stack) -> dict[str, Any]:
    """One expert stack of a source."""
    tensors = stack.first
    return {
        "stack": f"{stack.pattern}experts",
        "layout": stack.row.layout.name,
        "layers": len(stack.modules),
        "experts": stack.sizes["e"],
        "hidden": stack.sizes["h"],
        "intermediate": stack.sizes["i"],
        "dtype": "/".join(dict.fromkeys(infos[0].stored[0].dtype for infos in tensors.values())),
        "shapes": {weight: list(infos[0].shape) for weight, infos in tensors.items()},
        "tensors": sum(len(infos) for m in stack.modules for infos in m.tensors.values()),
        "bytes": sum(
            stored.nbytes
            for module in stack.modules
            for infos in module.tensors.values()
            for info in infos
            for stored in info.stored
        ),
    }


def _target_fields(plan: Plan) -> dict[str, Any]:
    target = plan.target
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
        "not_cast": protected_rows(plan.inputs, plan.casting),
        "notes": list(notes_of(plan)),
        "renames": renames(plan),
        "renamed_tensors": sum(1 for _ in renamed(plan)),
        "regrouped": list(regrouped(plan)),
        "unchanged_stacks": [
            f"{stack.pattern}experts"
            for stack in plan.source.stacks
            if target.rows[stack.pattern] == stack.row
        ],
        "passed_through": passed_through(plan),
        "left_behind": [_file_fields(o) for o in plan.others if o.skip_reason],
    }


def _template_fields(template: ReferenceCheckpoint | None) -> dict[str, Any] | None:
    if template is None:
        return None
    return {
        "location": template.location,
        "tensors": len(template.filled),
        "tensor_bytes": template.nbytes,
        "unknown": list(template.unknown),
    }


def _file_fields(other: OtherFile) -> dict[str, Any]:
    return {"name": other.name, "bytes": other.size, "left_behind": other.skip_reason or None}

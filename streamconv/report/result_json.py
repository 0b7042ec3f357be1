"""The results of conversions, verifications and checks of loading as JSON fields."""

from typing import TYPE_CHECKING, Any

from streamconv.report.outcome import from_to, next_steps
from streamconv.report.plan_json import shard_fields, target_fields
from streamconv.report.schema import document
from streamconv.verification.result import Verification

if TYPE_CHECKING:
    from streamconv.execution.result import Result
    from streamconv.verification.transformers_load import Loading


def result_fields(result: "Result") -> dict[str, Any]:
    """Build the document of a conversion with `--json`."""
    plan = result.plan
    fields = {
        "path": str(result.path),
        "target": target_fields(plan),
        "shards": shard_fields(plan),
        "tensors": sum(len(shard.steps) for shard in plan.shards),
        "data_bytes": plan.data_bytes,
        "from_to": from_to(plan),
        "next_steps": next_steps(plan, str(result.path)),
        "seconds": round(result.seconds, 3),
        "peak_memory_bytes": result.peak_memory,
        "projected_peak_bytes": plan.memory.peak,
        "verification": verification_fields(result.verification) if result.verification else None,
    }
    return document("result", fields)


def verification_fields(verification: Verification) -> dict[str, Any]:
    """Build the document of `verify --json`."""
    fields = {
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
    return document("verification", fields)


def loading_fields(location: str, found: "Loading") -> dict[str, Any]:
    """Build the document of `check --json`."""
    fields = {
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
        "not_shown": found.not_shown or None,
    }
    return document("loading", fields)

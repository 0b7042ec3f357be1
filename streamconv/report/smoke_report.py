"""The result of a smoke run, in lines and as JSON fields."""

from collections.abc import Iterator, Sequence
from typing import Any

from streamconv.report.schema import document
from streamconv.units import show_duration

Passed = tuple[str, str, int, int]
"""A family, the form it was merged to, and its tensors before and after the merge."""


def smoke_lines(passed: Sequence[Passed], seconds: float) -> Iterator[str]:
    """Yield a line for each family that is correct, then the verdict."""
    for family, form, tensors, merged in passed:
        yield f"{family:20} {form}: {tensors} -> {merged} tensors, correct -> hub: identical"
    yield f"ok, {len(passed)} families, {show_duration(seconds)}"


def smoke_fields(passed: Sequence[Passed], seconds: float) -> dict[str, Any]:
    """Build the document of `smoke --json`."""
    rows = [
        {"family": family, "form": form, "tensors": tensors, "merged_tensors": merged}
        for family, form, tensors, merged in passed
    ]
    return document("smoke", {"ok": True, "families": rows, "seconds": round(seconds, 3)})

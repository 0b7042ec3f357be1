"""Conversions, verifications and checks of loading in lines for a terminal."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType

from streamconv.errors import quoted
from streamconv.report.table_parts import counted, facts_table
from streamconv.units import show_duration, show_size
from streamconv.verification.result import KEPT_DIFFERENCES, Verification

if TYPE_CHECKING:
    from streamconv.execution.result import Result
    from streamconv.verification.transformers_load import Loading

MANY_KEYS = 20
"""How many of the keys that would not load are shown, of each kind."""
MANY_DIFFERENCES = 20
"""How many differences are shown."""


def result_line(result: "Result") -> str:
    """Return the line for a conversion that is complete."""
    rate = result.plan.write_bytes / max(result.seconds, 1e-9)
    shards = counted(len(result.plan.shards), "shard")
    verified = ", verified bit for bit" if result.verification else ""
    return (
        f"{result.path}: {show_size(result.plan.write_bytes)} in {shards}, "
        f"{show_duration(result.seconds)} ({show_size(rate)}/s), "
        f"peak memory {show_size(result.peak_memory)}{verified}"
    )


def part_line(result: "Result") -> str:
    """Return the line for one part of a conversion."""
    number, of = result.part.number, result.part.of
    return (
        f"{result.path}: part {number} of {of} is complete, {show_duration(result.seconds)}; "
        f"after all parts, run `streamconv finish {result.path}`"
    )


def verification_lines(verification: Verification) -> Iterator[str]:
    """Yield the first differences, the checksums, what was not checked, and the verdict."""
    for difference in verification.differences[:MANY_DIFFERENCES]:
        yield f"{quoted(difference.where)} {quoted(difference.detail, 400)}"
    more = verification.difference_count - MANY_DIFFERENCES
    if more > 0:
        yield f"... {more:,} more (--json shows up to {KEPT_DIFFERENCES:,})"
    for name, digest in verification.sha256.items():
        yield f"{digest}  {quoted(name)}"
    for unchecked in verification.unchecked:
        yield f"not checked: {quoted(unchecked, 400)}"
    if verification.ok:
        rate = verification.checked_bytes / max(verification.seconds, 1e-9)
        yield (
            f"{quoted(verification.path)}: {_verdict(verification)}; "
            f"{show_size(verification.checked_bytes)} checked, "
            f"{show_duration(verification.seconds)} ({show_size(rate)}/s), "
            f"peak memory {show_size(verification.peak_memory)}"
        )


def _verdict(verification: Verification) -> str:
    """Return what a checkpoint without differences has been verified to be."""
    if verification.source:
        return f"the conversion of {quoted(verification.source)}"
    return "as it was written" if verification.checked_bytes else "sound"


def loading_table(location: str, found: "Loading") -> RenderableType:
    """Build the output of `check`: the model, and the keys that would not load."""
    facts = facts_table()
    facts.add_row("checkpoint", quoted(location))
    facts.add_row("model", f"{found.model}, {counted(found.keys, 'key')}")
    if found.is_clean:
        facts.add_row("loads", "cleanly: every key has its tensor, every tensor its key")
    if found.not_shown:
        facts.add_row("not shown", found.not_shown)
    if found.damage:
        facts.add_row("damage", found.damage)
    rows = {
        "missing": found.missing,
        "unexpected": found.unexpected,
        "mismatched": [
            f"{key}: {list(here)} in the checkpoint, {list(there)} in the model"
            for key, here, there in found.mismatched
        ],
        "failed": [f"{key}: {error}" for key, error in found.failed],
    }
    for kind, lines in rows.items():
        for line in lines[:MANY_KEYS]:
            facts.add_row(kind, quoted(line))
        if len(lines) > MANY_KEYS:
            facts.add_row(kind, f"... {len(lines) - MANY_KEYS} more (--json shows them)")
    return facts

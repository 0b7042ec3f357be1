"""What a run, a verification or a trial of loading came to, in lines for a terminal."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType

from streamconv.errors import quoted
from streamconv.report.tables import counted, facts_table
from streamconv.units import show_duration, show_size
from streamconv.verification.result import KEPT_DIFFERENCES, Verification

if TYPE_CHECKING:
    from streamconv.execution.result import Result
    from streamconv.verification.transformers_load import Loading

MANY_KEYS = 20
"""Of keys that would not load, so many of a kind are shown."""
MANY_DIFFERENCES = 20
"""So many differences are shown."""


def result_line(result: "Result") -> str:
    """What has been done, in a line."""
    rate = result.plan.write_bytes / max(result.seconds, 1e-9)
    shards = counted(len(result.plan.shards), "shard")
    verified = ", verified bit for bit" if result.verification else ""
    return (
        f"{result.path}: {show_size(result.plan.write_bytes)} in {shards}, "
        f"{show_duration(result.seconds)} ({show_size(rate)}/s), "
        f"peak memory {show_size(result.peak_memory)}{verified}"
    )


def part_line(result: "Result") -> str:
    """What one part of a conversion has done, in a line."""
    number, of = result.part.number, result.part.of
    return (
        f"{result.path}: part {number} of {of} is done, {show_duration(result.seconds)}; when all "
        f"are, `streamconv finish {result.path}` puts them together"
    )


def verification_lines(verification: Verification) -> Iterator[str]:
    """What was found, for people; the first differences only."""
    for difference in verification.differences[:MANY_DIFFERENCES]:
        yield f"{quoted(difference.where)} {quoted(difference.detail, 400)}"
    more = verification.difference_count - MANY_DIFFERENCES
    if more > 0:
        yield f"... {more:,} more (--json has up to {KEPT_DIFFERENCES:,})"
    for name, digest in verification.sha256.items():
        yield f"{digest}  {quoted(name)}"
    for what in verification.unchecked:
        yield f"not checked: {quoted(what, 400)}"
    if verification.ok:
        of = f" of {quoted(verification.source)}" if verification.source else ""
        is_what = f"the conversion{of}" if verification.source else "as it was written"
        is_what = is_what if verification.source or verification.checked_bytes else "sound"
        rate = verification.checked_bytes / max(verification.seconds, 1e-9)
        yield (
            f"{quoted(verification.path)}: {is_what}; {show_size(verification.checked_bytes)} "
            f"checked, {show_duration(verification.seconds)} ({show_size(rate)}/s), "
            f"peak memory {show_size(verification.peak_memory)}"
        )


def loading_table(location: str, found: "Loading") -> RenderableType:
    """What transformers would make of a checkpoint."""
    facts = facts_table()
    facts.add_row("checkpoint", quoted(location))
    facts.add_row("model", f"{found.model}, {counted(found.keys, 'key')}")
    if found.is_clean:
        facts.add_row("loads", "cleanly: every key has its tensor, every tensor its key")
    if found.damage:
        facts.add_row("damage", found.damage)
    rows = {
        "missing": found.missing,
        "unexpected": found.unexpected,
        "mismatched": [
            f"{key}: {list(here)} here, {list(there)} in the model"
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

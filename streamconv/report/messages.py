"""Conversions, verifications and checks of loading in lines for a terminal."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType

from streamconv.errors import quoted
from streamconv.report.outcome import from_to, next_steps
from streamconv.report.plan_notes import config_line, notes_of
from streamconv.report.table_parts import counted
from streamconv.report.tables import Facts
from streamconv.units import show_duration, show_size
from streamconv.verification.result import KEPT_DIFFERENCES, Verification

if TYPE_CHECKING:
    from streamconv.execution.result import Result
    from streamconv.verification.transformers_load import Loading

MANY_KEYS = 20
"""How many keys that would not load are shown, for each reason."""
MANY_DIFFERENCES = 20
"""How many differences are shown."""


def result_lines(result: "Result") -> Iterator[str]:
    """Yield the lines for a complete conversion: source and result, sizes, notes, next steps."""
    path, plan = _shown(result.path), result.plan
    rate = plan.write_bytes / max(result.seconds, 1e-9)
    shards = counted(len(plan.shards), "shard")
    verified = ", verified bit for bit" if result.verification else ""
    yield f"{path}: {from_to(plan)}"
    yield (
        f"{show_size(plan.write_bytes)} in {shards}, "
        f"{show_duration(result.seconds)} ({show_size(rate)}/s), "
        f"peak memory {show_size(result.peak_memory)}{verified}"
    )
    if edits := config_line(plan):
        yield f"config.json: {edits}"
    for note in notes_of(plan):
        yield f"note: {note}"
    for step in next_steps(plan, path):
        yield f"next: {step}"


def part_line(result: "Result") -> str:
    """Return the line for one part of a conversion."""
    path, number, of = _shown(result.path), result.part.number, result.part.of
    return (
        f"{path}: part {number} of {of} is complete, {show_duration(result.seconds)}; "
        f"after all parts, run `streamconv finish {path}`"
    )


def _shown(path: Path) -> str:
    """Return a path as it would be typed: relative if it is below the working directory."""
    with suppress(OSError, ValueError):  # the directory was removed; the path is elsewhere
        near = str(path.relative_to(Path.cwd()))
        if near[0].isalnum() and ":" not in near:  # neither an option nor a URL
            return near
    return str(path)


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
    """Return the verdict on a checkpoint without differences."""
    if verification.source:
        return f"the conversion of {quoted(verification.source)}"
    return "as it was written" if verification.checked_bytes else "sound"


def loading_table(location: str, found: "Loading") -> RenderableType:
    """Build the output of `check`: the model, and the keys that would not load."""
    facts: list[tuple[str, str]] = []
    facts.append(("checkpoint", quoted(location)))
    facts.append(("model", f"{found.model}, {counted(found.keys, 'key')}"))
    if found.is_clean:
        facts.append(("loads", "cleanly: every key has its tensor, every tensor its key"))
    if found.not_shown:
        facts.append(("not shown", found.not_shown))
    if found.damage:
        facts.append(("damage", found.damage))
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
        facts += [(kind, quoted(line)) for line in lines[:MANY_KEYS]]
        if len(lines) > MANY_KEYS:
            facts.append((kind, f"... {len(lines) - MANY_KEYS} more (--json shows them)"))
    return Facts(facts)

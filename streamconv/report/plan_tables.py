"""A plan as tables for a terminal."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from streamconv.checkpoint.cast_summary import cast_rows, protected_names
from streamconv.checkpoint.casting import may_be_cast
from streamconv.checkpoint.tensor_names import summarize_kinds, summarize_names
from streamconv.errors import quoted
from streamconv.planning.plan import Plan
from streamconv.planning.removal import Removal
from streamconv.report.checkpoint_tables import stacks_table
from streamconv.report.outcome import from_to, loading_line
from streamconv.report.plan_notes import (
    config_line,
    format_line,
    notes_of,
    passed_through,
    regrouped,
    renamed,
    renames,
    target_line,
)
from streamconv.report.table_parts import copied_files, counted
from streamconv.report.tables import Column, Facts, Table
from streamconv.units import show_duration, show_size

MANY_SHARDS = 12
"""Of a plan with more shards, only the first and the last few are shown, unless -v is given."""

MANY_REMOVALS = 12
"""Of a plan that removes more files, only the first ones are shown, unless -v is given."""

Fact = tuple[str, str]
"""A topic, and a sentence or figure on it."""


def plan_table(
    plan: Plan,
    free_disk: int | None,
    rate: int | None = None,
    removals: Sequence[Removal] = (),
    *,
    verbose: bool = False,
) -> RenderableType:
    """Build the output of `--dry-run`.

    Args:
        plan: The plan of a conversion.
        free_disk: Free bytes on the disk of the target; None if unknown.
        rate: Bytes read per second, to estimate the duration; None for no estimate.
        removals: The files that the conversion will remove.
        verbose: True to show each layer, shard and removed file in a row of its own.
    """
    facts = Facts(
        (
            *_origin(plan),
            *_cost(plan, free_disk, rate),
            *_changes(plan),
            *_kept(plan),
            *_removed(removals, verbose),
        )
    )
    layers, shards = _layers(plan, verbose), _shards(plan, verbose)
    return Group(facts, Text(), _stacks(plan), Text(), layers, Text(), shards)


def _origin(plan: Plan) -> Iterator[Fact]:
    """Yield the source, its template, the target and the format."""
    source, template = plan.checkpoint, plan.checkpoint.template
    model_type, form = plan.source.model_type or "no model type", plan.source.form or "unknown"
    yield "from", f"{quoted(source.location)}: {quoted(model_type)}, form {form}"
    if source.revision:
        yield "commit", quoted(source.revision)
    if template:
        filled = f"{counted(len(template.filled), 'tensor')}, {show_size(template.nbytes)}"
        yield "template", f"{quoted(template.location)}: config, other files, {filled}"
    yield "to", target_line(plan.target)
    yield "result", from_to(plan)
    yield "next", loading_line(plan, "DST")
    yield "format", format_line(plan)
    if plan.record.layers:
        yield "partial", f"only layers {plan.record.layers}, and the tensors outside of layers"


def _cost(plan: Plan, free_disk: int | None, rate: int | None) -> Iterator[Fact]:
    """Yield the bytes that are read and written, and the time and memory that this takes."""
    memory = plan.memory
    read = sum(
        info.nbytes if info.cast is None else sum(stored.nbytes for stored in info.stored)
        for info in plan.inputs
    )
    yield "reads", f"{show_size(read)} from {counted(len(plan.checkpoint.files), 'file')}"
    if plan.transfer_bytes:
        yield "transfers", f"{show_size(plan.transfer_bytes)} over the network"
    if rate is not None:
        yield "takes", f"{show_duration(plan.read_bytes / rate)} at {show_size(rate)}/s in all"
    free = "" if free_disk is None else f"; {show_size(free_disk)} free on the disk"
    yield "writes", f"{show_size(plan.write_bytes)} in {counted(len(plan.shards), 'shard')}{free}"
    allowed = "" if memory.allowed is None else f" of {show_size(memory.allowed)} allowed"
    why = f" ({memory.why})" if memory.why else ""
    workers = f"{counted(memory.jobs, 'worker')}{why}"
    yield "memory", f"{show_size(memory.peak)} at most{allowed}, {workers}"


def _changes(plan: Plan) -> Iterator[Fact]:
    """Yield all changes other than those of the layouts of experts, and the notes."""
    count = sum(1 for _ in renamed(plan))
    if count:
        yield "renamed", f"{counted(count, 'tensor')}: {', '.join(renames(plan))}"
    for row in regrouped(plan):
        yield "regrouped", quoted(row)
    for row in _casts(plan):
        yield "cast", row
    if plan.config.edits:
        yield "config.json", config_line(plan)
    for note in notes_of(plan):
        yield "note", note


def _kept(plan: Plan) -> Iterator[Fact]:
    """Yield the stacks that stay as they are, and the files that are copied or left out."""
    same = [s for s in plan.source.stacks if plan.target.layout_for(s) == s.row]
    if same:
        stacks = (f"{quoted(s.pattern)}experts ({s.row.layout.name})" for s in same)
        yield "unchanged", ", ".join(dict.fromkeys(stacks))
    for stack, reason in passed_through(plan).items():
        yield "passed through", f"{quoted(stack)}: {reason}"
    yield "other files", copied_files(plan.others)
    for other in plan.others:
        if other.skip_reason:
            yield "not copied", f"{quoted(other.name)}: {other.skip_reason}"


def _removed(removals: Sequence[Removal], verbose: bool) -> Iterator[Fact]:
    """Yield the files that are removed; only the first few unless `verbose`."""
    if removals:
        size = show_size(sum(each.nbytes for each in removals))
        yield "removes", f"{counted(len(removals), 'file')}, {size}"
    shown = removals if verbose else removals[:MANY_REMOVALS]
    for each in shown:
        yield "", f"{quoted(each.path)}, {show_size(each.nbytes)}"
    if len(shown) < len(removals):
        yield "", f"... {len(removals) - len(shown)} more (-v shows them)"


def _stacks(plan: Plan) -> Table:
    becomes = [plan.target.layout_for(stack).layout.name for stack in plan.source.stacks]
    return stacks_table(plan.source.stacks, Column("becomes"), becomes)


def _layers(plan: Plan, verbose: bool) -> Table:
    """Build the table of layers; equal neighbors share a row unless `verbose`."""
    shown = []
    rows = []
    for layer, steps in plan.steps_by_layer().items():
        copied = sum(step.nbytes for step in steps if step.is_copy)
        size = sum(step.nbytes for step in steps)
        inputs = len({info.name for step in steps for info in step.inputs})
        path, number = layer or ("", 0)
        rows.append((path, number, (inputs, len(steps), copied, size)))
    key = (lambda row: row) if verbose else (lambda row: (row[0], row[2]))
    for _, grouped in itertools.groupby(rows, key):
        group = list(grouped)
        path, first, (inputs, outputs, copied, size) = group[0]
        span = f"{first}" if len(group) == 1 else f"{first}-{group[-1][1]}"
        each = f" x {len(group)}" if len(group) > 1 else ""
        shown.append(
            (
                quoted(f"{path}{span}") if path else "outside of layers",
                f"{inputs:,}",
                f"{outputs:,}",
                show_size(copied),
                show_size(size - copied),
                f"{show_size(size)}{each}",
            )
        )
    columns = (
        Column("layer"),
        Column("reads", is_number=True, rank=2),
        Column("writes", is_number=True, rank=2),
        Column("copied", is_number=True, rank=1),
        Column("rearranged", is_number=True, rank=1),
        Column("size", is_number=True),
    )
    return Table("layers", columns, shown)


def _shards(plan: Plan, verbose: bool) -> Table:
    """Build the table of shards; only the first and the last few if there are many."""
    rows = []
    first, last = MANY_SHARDS // 2, 2
    hidden = 0 if verbose or len(plan.shards) <= MANY_SHARDS else len(plan.shards) - first - last
    for number, shard in enumerate(plan.shards):
        if not first <= number < first + hidden:
            rows.append((shard.name, f"{len(shard.steps):,}", show_size(shard.nbytes)))
        elif number == first:
            rows.append((f"... {hidden} more (-v shows them)", "", ""))
    columns = (Column("file"), Column("tensors", is_number=True), Column("size", is_number=True))
    return Table("output shards", columns, rows)


def _casts(plan: Plan) -> Iterator[str]:
    """Yield the tensors that are cast to each dtype, and those of each kind that are not."""
    if not may_be_cast(plan.checkpoint, plan.casting):
        return
    casts: dict[str, Counter[str]] = {}
    for row in cast_rows(plan.inputs):
        done = f" times its scales ({row['format']})" if row["scaled"] else ""
        done = f" quantized ({row['format']})" if row["quantized"] else done
        kinds = casts.setdefault(f"{row['from']}{done} to {row['to']}", Counter())
        kinds[row["tensors"]] += row["count"]
    for cast, kinds in casts.items():
        yield f"{counted(kinds.total(), 'tensor')}, {cast}: {summarize_kinds(kinds)}"
    protected = protected_names(plan.inputs, plan.casting, plan.source.family)
    for kind, names in sorted(protected.items()):
        yield f"not cast: {counted(len(names), kind)}: {summarize_names(names)}"

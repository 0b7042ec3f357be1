"""A plan and an inspection as tables for a terminal."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from streamconv.catalog.families import FORMS
from streamconv.checkpoint.casting import cast_rows, protected_rows
from streamconv.checkpoint.types import Checkpoint, OtherFile, TensorInfo
from streamconv.detection.detect import Detected
from streamconv.errors import quoted
from streamconv.planning.plan import Plan
from streamconv.planning.steps import Step
from streamconv.report.json_output import inspection_fields, stack_fields
from streamconv.report.plan_notes import (
    notes_of,
    passed_through,
    regrouped,
    renamed,
    renames,
    why,
    written,
)
from streamconv.units import show_duration, show_size

MANY_SHARDS = 12
"""With more shards than this, a plan shows the first and the last few unless asked for all."""


def inspection_table(checkpoint: Checkpoint, found: Detected) -> RenderableType:
    """What is in a checkpoint."""
    fields = inspection_fields(checkpoint, found)
    facts = facts_table()
    facts.add_row("checkpoint", quoted(checkpoint.location))
    if checkpoint.revision:
        facts.add_row("commit", quoted(checkpoint.revision))
    facts.add_row("model type", f"{quoted(found.model_type or 'not said')}{_family(found)}")
    facts.add_row("form", found.form or "of no ecosystem known here")
    if fields["layers"]:
        facts.add_row("partial", f"only layers {fields['layers']}")
    facts.add_row(
        "tensors",
        f"{fields['tensors']:,} in {counted(fields['files'], 'file')} ({checkpoint.format}), "
        f"{show_size(fields['tensor_bytes'])}",
    )
    rest = f"{fields['other_tensors']:,} tensors, {show_size(fields['other_tensor_bytes'])}"
    facts.add_row("not experts", rest)
    facts.add_row("other files", _files(checkpoint.others))
    return Group(facts, Text(), _stacks(found))


def plan_table(
    plan: Plan, free_disk: int | None, rate: int | None = None, *, verbose: bool = False
) -> RenderableType:
    """What a conversion is going to do; `rate` is bytes a second that are read."""
    memory, source = plan.memory, plan.checkpoint
    facts = facts_table()
    _add_origin(facts, plan)
    facts.add_row("to", why(plan.target))
    facts.add_row("format", written(plan))
    if plan.record.layers:
        facts.add_row("partial", f"only layers {plan.record.layers} and what belongs to no layer")
    read = sum(stored.nbytes for info in plan.inputs for stored in info.stored)
    facts.add_row("reads", f"{show_size(read)} from {counted(len(source.files), 'file')}")
    _add_cost(facts, plan, rate)
    disk = "" if free_disk is None else f"; {show_size(free_disk)} free on the disk"
    facts.add_row(
        "writes", f"{show_size(plan.write_bytes)} in {counted(len(plan.shards), 'shard')}{disk}"
    )
    allowed = "" if memory.allowed is None else f" of {show_size(memory.allowed)} allowed"
    facts.add_row(
        "memory", f"{show_size(memory.peak)} at most{allowed}, {counted(memory.jobs, 'worker')}"
    )
    moved = sum(1 for _ in renamed(plan))
    if moved:
        facts.add_row("renamed", f"{moved:,} tensors: {', '.join(renames(plan))}")
    for row in regrouped(plan):
        facts.add_row("regrouped", quoted(row))
    for row in _casts(plan):
        facts.add_row("cast", row)
    for note in notes_of(plan):
        facts.add_row("note", note)
    same = [s for s in plan.source.stacks if plan.target.rows[s.pattern] == s.row]
    if same:
        kept = ", ".join(f"{quoted(s.pattern)}experts ({s.row.layout.name})" for s in same)
        facts.add_row("left as it is", kept)
    for stack, reason in passed_through(plan).items():
        facts.add_row("passed through", f"{quoted(stack)}: {reason}")
    facts.add_row("other files", _files(plan.others))
    for other in plan.others:
        if other.skip_reason:
            facts.add_row("left behind", f"{quoted(other.name)}: {other.skip_reason}")
    stacks, layers = _stacks(plan.source, plan), _layers(plan, verbose)
    return Group(facts, Text(), stacks, Text(), layers, Text(), _shards(plan, verbose))


def _add_cost(facts: Table, plan: Plan, rate: int | None) -> None:
    """What comes over a network, and how long it all takes where a rate is known."""
    if plan.transfer_bytes:
        facts.add_row("transfers", f"{show_size(plan.transfer_bytes)} over the network")
    if rate is not None:
        seconds = show_duration(plan.read_bytes / rate)
        facts.add_row("takes", f"{seconds} at {show_size(rate)}/s in all")


def _add_origin(facts: Table, plan: Plan) -> None:
    """Where the source is, and what completes it."""
    source, template = plan.checkpoint, plan.checkpoint.template
    facts.add_row("from", f"{quoted(source.location)}: {_form(plan.source)}")
    if source.revision:
        facts.add_row("commit", quoted(source.revision))
    if template:
        given = f"{counted(len(template.filled), 'tensor')}, {show_size(template.nbytes)}"
        facts.add_row("template", f"{quoted(template.location)}: config, other files, {given}")


def facts_table() -> Table:
    """A table of what each line is about, and the fact."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1))
    for number, column in enumerate(columns):
        justify: Literal["left", "right"] = "right" if number else "left"
        table.add_column(column, justify=justify, overflow="fold", min_width=0 if number else 30)
    return table


def _stacks(found: Detected, plan: Plan | None = None) -> Table:
    """The stacks of a source: with their shapes, or with what a plan makes of them."""
    table = _table("expert stacks", "stack", "layers x experts", "hidden x inter", "dtype")
    table.add_column("layout", no_wrap=True)
    table.add_column("shapes" if plan is None else "becomes", no_wrap=plan is not None)
    table.add_column("size", justify="right", no_wrap=True)
    for stack in found.stacks:
        fields = stack_fields(stack)
        if plan is None:
            last = ", ".join(f"{shape}" for shape in fields["shapes"].values())
        else:
            last = plan.target.rows[stack.pattern].layout.name
        table.add_row(
            quoted(fields["stack"]),
            f"{fields['layers']} x {fields['experts']}",
            f"{fields['hidden']} x {fields['intermediate']}",
            fields["dtype"],
            fields["layout"],
            Text(last),
            show_size(fields["bytes"]),
        )
    return table


def _layers(plan: Plan, verbose: bool) -> Table:
    """Layer by layer; neighbours of which the same is to be said share a row."""
    table = _table("layers", "layer", "reads", "writes", "copied", "rearranged", "size")
    rows = []
    for layer, steps in plan.steps_by_layer().items():
        copied = sum(step.nbytes for step in steps if step.is_copy)
        size = sum(step.nbytes for step in steps)
        inputs = sum(1 for _ in _inputs(steps))
        path, number = layer or ("", 0)
        rows.append((path, number, (inputs, len(steps), copied, size)))
    key = (lambda row: row) if verbose else (lambda row: (row[0], row[2]))
    for _, grouped in itertools.groupby(rows, key):
        group = list(grouped)
        path, first, (inputs, outputs, copied, size) = group[0]
        span = f"{first}" if len(group) == 1 else f"{first}-{group[-1][1]}"
        each = f" x {len(group)}" if len(group) > 1 else ""
        table.add_row(
            quoted(f"{path}{span}") if path else "in none of them",
            f"{inputs:,}",
            f"{outputs:,}",
            show_size(copied),
            show_size(size - copied),
            f"{show_size(size)}{each}",
        )
    return table


def _shards(plan: Plan, verbose: bool) -> Table:
    table = _table("output shards", "file", "tensors", "size")
    shards = plan.shards
    few = verbose or len(shards) <= MANY_SHARDS
    for number, shard in enumerate(shards):
        if few or number < MANY_SHARDS // 2 or number >= len(shards) - 2:
            table.add_row(shard.name, f"{len(shard.steps):,}", show_size(shard.nbytes))
        elif number == MANY_SHARDS // 2:
            table.add_row(f"... {len(shards) - MANY_SHARDS // 2 - 2} more (-v shows them)")
    return table


def _casts(plan: Plan) -> Iterator[str]:
    """What is cast to what, and what is spared."""
    counts: Counter[str] = Counter()
    for row in cast_rows(plan.inputs):
        scaled = " times its scales" if row["scaled"] else ""
        counts[f"{row['from']}{scaled} to {row['to']}"] += row["count"]
    for what, count in counts.items():
        yield f"{counted(count, 'tensor')}, {what}"
    protected = protected_rows(plan.inputs, plan.casting)
    if protected:
        summarize_names = ", ".join(
            counted(count, kind) for kind, count in sorted(protected.items())
        )
        yield f"not cast: {summarize_names}"


def _inputs(steps: Iterable[Step]) -> Iterator[TensorInfo]:
    """Every input of the steps, once."""
    return iter({info.name: info for step in steps for info in step.inputs}.values())


def _files(others: Iterable[OtherFile]) -> str:
    copied = [other for other in others if not other.skip_reason]
    return f"{counted(len(copied), 'file')} copied, {show_size(sum(o.size for o in copied))}"


def _family(found: Detected) -> str:
    return f" (family {found.family.name})" if found.family else " (no family of the table)"


def _form(found: Detected) -> str:
    return f"{quoted(found.model_type or 'no model type')}, form {found.form or 'unknown'}"


def counted(number: int, what: str) -> str:
    """`1 shard`, `12,345 shards`."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def families_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """What `streamconv families` shows."""
    table = _table("families", "model types", *FORMS, "merges to")
    for row in rows:
        forms = (", ".join(dict.fromkeys(row["forms"].get(form, {}).values())) for form in FORMS)
        merge = "refused" if row["refused"] else row["merge"]
        table.add_row(", ".join(row["model_types"]), *forms, merge)
    return table


def layouts_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """What `streamconv layouts` shows."""
    table = _table("layouts", "layout", "gate and up", "down", "who uses it")
    for row in rows:
        templates = row["templates"]
        table.add_row(
            row["layout"], Text(templates["gate_up"]), Text(templates["down"]), row["used_by"]
        )
    return table

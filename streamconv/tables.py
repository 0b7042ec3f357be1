"""A plan, an inspection and a result as tables for a terminal."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from streamconv.casts import cast_rows, spared_rows
from streamconv.checkpoint import Checkpoint, OtherFile, TensorInfo
from streamconv.errors import quoted
from streamconv.families import FORMS
from streamconv.plan import Plan
from streamconv.recognise import Recognised
from streamconv.report import (
    inspection_fields,
    notes_of,
    passed_through,
    regrouped,
    renamed,
    renames,
    stack_fields,
    why,
    written,
)
from streamconv.steps import Step
from streamconv.units import show_duration, show_size
from streamconv.verify import KEPT_DIFFERENCES, Verification

if TYPE_CHECKING:
    from streamconv import Result
    from streamconv.loading import Loading

MANY_KEYS = 20
"""Of keys that would not load, so many of a kind are shown."""
MANY_SHARDS = 12
"""With more shards than this, a plan shows the first and the last few unless asked for all."""

MANY_DIFFERENCES = 20
"""So many differences are shown."""


def inspection_table(checkpoint: Checkpoint, found: Recognised) -> RenderableType:
    """What is in a checkpoint."""
    fields = inspection_fields(checkpoint, found)
    facts = _facts()
    facts.add_row("checkpoint", quoted(checkpoint.location))
    if checkpoint.revision:
        facts.add_row("commit", quoted(checkpoint.revision))
    facts.add_row("model type", f"{quoted(found.model_type or 'not said')}{_family(found)}")
    facts.add_row("form", found.form or "of no ecosystem known here")
    if fields["layers"]:
        facts.add_row("partial", f"only layers {fields['layers']}")
    facts.add_row(
        "tensors",
        f"{fields['tensors']:,} in {_count(fields['files'], 'file')}, "
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
    facts = _facts()
    _add_origin(facts, plan)
    facts.add_row("to", why(plan.target))
    facts.add_row("format", written(plan))
    if plan.record.layers:
        facts.add_row("partial", f"only layers {plan.record.layers} and what belongs to no layer")
    read = sum(stored.nbytes for info in plan.inputs for stored in info.stored)
    facts.add_row("reads", f"{show_size(read)} from {_count(len(source.files), 'file')}")
    _add_cost(facts, plan, rate)
    disk = "" if free_disk is None else f"; {show_size(free_disk)} free on the disk"
    facts.add_row(
        "writes", f"{show_size(plan.write_bytes)} in {_count(len(plan.shards), 'shard')}{disk}"
    )
    allowed = "" if memory.allowed is None else f" of {show_size(memory.allowed)} allowed"
    facts.add_row(
        "memory", f"{show_size(memory.peak)} at most{allowed}, {_count(memory.jobs, 'worker')}"
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
        if other.left_behind:
            facts.add_row("left behind", f"{quoted(other.name)}: {other.left_behind}")
    stacks, layers = _stacks(plan.source, plan), _layers(plan, verbose)
    return Group(facts, Text(), stacks, Text(), layers, Text(), _shards(plan, verbose))


def loading_table(location: str, found: "Loading") -> RenderableType:
    """What transformers would make of a checkpoint."""
    facts = _facts()
    facts.add_row("checkpoint", quoted(location))
    facts.add_row("model", f"{found.model}, {_count(found.keys, 'key')}")
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


def _add_cost(facts: Table, plan: Plan, rate: int | None) -> None:
    """What comes over a network, and how long it all takes where a rate is known."""
    if plan.transfer_bytes:
        facts.add_row("transfers", f"{show_size(plan.transfer_bytes)} over the network")
    if rate is not None:
        seconds = show_duration(plan.read_bytes / rate)
        facts.add_row("takes", f"{seconds} at {show_size(rate)}/s")


def result_line(result: "Result") -> str:
    """What has been done, in a line."""
    rate = result.plan.write_bytes / max(result.seconds, 1e-9)
    shards = _count(len(result.plan.shards), "shard")
    verified = ", verified bit for bit" if result.verification else ""
    return (
        f"{result.place}: {show_size(result.plan.write_bytes)} in {shards}, "
        f"{show_duration(result.seconds)} ({show_size(rate)}/s), "
        f"peak memory {show_size(result.peak_memory)}{verified}"
    )


def part_line(result: "Result") -> str:
    """What one part of a conversion has done, in a line."""
    number, of = result.part.number, result.part.of
    return (
        f"{result.place}: part {number} of {of} is done, {show_duration(result.seconds)}; when all "
        f"are, `streamconv finish {result.place}` puts them together"
    )


def verification_lines(verification: Verification) -> Iterator[str]:
    """What was found, for people; the first differences only."""
    for difference in verification.differences[:MANY_DIFFERENCES]:
        yield f"{quoted(difference.where)} {quoted(difference.fact, 400)}"
    more = verification.found - MANY_DIFFERENCES
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
            f"{quoted(verification.place)}: {is_what}; {show_size(verification.checked_bytes)} "
            f"checked, {show_duration(verification.seconds)} ({show_size(rate)}/s), "
            f"peak memory {show_size(verification.peak_memory)}"
        )


def _add_origin(facts: Table, plan: Plan) -> None:
    """Where the source is, and what completes it."""
    source, template = plan.checkpoint, plan.checkpoint.template
    facts.add_row("from", f"{quoted(source.location)}: {_form(plan.source)}")
    if source.revision:
        facts.add_row("commit", quoted(source.revision))
    if template:
        given = f"{_count(template.tensors, 'tensor')}, {show_size(template.nbytes)}"
        facts.add_row("template", f"{quoted(template.location)}: config, other files, {given}")


def _facts() -> Table:
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


def _stacks(found: Recognised, plan: Plan | None = None) -> Table:
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
        copied = sum(step.nbytes for step in steps if step.how.is_copy)
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
        yield f"{_count(count, 'tensor')}, {what}"
    spared = spared_rows(plan.inputs, plan.casting)
    if spared:
        kinds = ", ".join(_count(count, kind) for kind, count in sorted(spared.items()))
        yield f"not cast: {kinds}"


def _inputs(steps: Iterable[Step]) -> Iterator[TensorInfo]:
    """Every input of the steps, once."""
    return iter({info.name: info for step in steps for info in step.inputs}.values())


def _files(others: Iterable[OtherFile]) -> str:
    copied = [other for other in others if not other.left_behind]
    return f"{_count(len(copied), 'file')} copied, {show_size(sum(o.size for o in copied))}"


def _family(found: Recognised) -> str:
    return f" (family {found.family.name})" if found.family else " (no family of the table)"


def _form(found: Recognised) -> str:
    return f"{quoted(found.model_type or 'no model type')}, form {found.form or 'unknown'}"


def _count(number: int, what: str) -> str:
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

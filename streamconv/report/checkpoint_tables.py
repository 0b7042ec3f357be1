"""A source checkpoint as tables for a terminal."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from streamconv.checkpoint.tensor_kinds import tensor_kinds
from streamconv.checkpoint.types import Checkpoint
from streamconv.detection.detect import Detected
from streamconv.detection.kinds import kinds_of
from streamconv.errors import quoted
from streamconv.report.checkpoint_json import inspection_notes, source_fields, stack_fields
from streamconv.report.table_parts import copied_files, counted, facts_table, titled_table
from streamconv.units import show_size

MANY_SHAPES = 3
"""How many shapes are shown of tensors whose names differ only in numbers."""


def inspection_table(checkpoint: Checkpoint, found: Detected) -> RenderableType:
    """Build the output of `inspect`: facts, then the expert stacks with their shapes."""
    fields = source_fields(checkpoint, found)
    facts = facts_table()
    facts.add_row("checkpoint", quoted(checkpoint.location))
    if checkpoint.revision:
        facts.add_row("commit", quoted(checkpoint.revision))
    known = "" if found.family else " (of no known family)"
    facts.add_row("model type", f"{quoted(found.model_type or 'not given')}{known}")
    facts.add_row("form", found.form or "unknown")
    for kind in kinds_of(checkpoint):
        facts.add_row("this is", kind.says)
    if fields["layers"]:
        facts.add_row("partial", f"only layers {fields['layers']}")
    facts.add_row(
        "tensors",
        f"{fields['tensors']:,} in {counted(fields['files'], 'file')} ({checkpoint.format}), "
        f"{show_size(fields['tensor_bytes'])}",
    )
    others = counted(fields["other_tensors"], "tensor")
    facts.add_row("not experts", f"{others}, {show_size(fields['other_tensor_bytes'])}")
    facts.add_row("other files", copied_files(checkpoint.others))
    if found.not_found:
        facts.add_row(
            "not found", f"experts: config.json says {quoted(', '.join(found.not_found))}"
        )
    for contradiction in checkpoint.contradictions:
        facts.add_row("contradiction", contradiction)
    for pattern, refusal in found.refusals.items():
        facts.add_row("cannot convert", f"{quoted(pattern)}experts: {refusal.message}")
        if refusal.hint:
            facts.add_row("", refusal.hint)
    for note in inspection_notes(checkpoint, found):
        facts.add_row("note", note)
    stacks: list[RenderableType] = [_stacks(found), Text()] if found.stacks else []
    return Group(facts, Text(), *stacks, _tensors(checkpoint))


def _tensors(checkpoint: Checkpoint) -> Table:
    """Build the table of all tensors, experts or not, by the patterns of their names."""
    table = titled_table("tensors", "name", "count", "dtype", "shape", "size")
    for kind in tensor_kinds(checkpoint.tensors.values()):
        shown = [str(list(shape)) for shape, _ in kind.shapes[:MANY_SHAPES]]
        rest = len(kind.shapes) - len(shown)
        table.add_row(
            quoted(kind.pattern),
            f"{kind.count:,}",
            ", ".join(dtype for dtype, _ in kind.dtypes),
            Text(", ".join([*shown, *([f"{rest} more"] if rest else [])])),
            show_size(kind.nbytes),
        )
    return table


def _stacks(found: Detected) -> Table:
    table = stacks_table("shapes")
    for stack in found.stacks:
        fields = stack_fields(stack)
        shapes = ", ".join(f"{shape}" for shape in fields["shapes"].values())
        add_stack(table, fields, shapes)
    return table


def stacks_table(last_column: str, *, no_wrap: bool = False) -> Table:
    """Build an empty table of expert stacks, to be filled by `add_stack`."""
    table = titled_table("expert stacks", "stack", "layers x experts", "hidden x inter", "dtype")
    table.add_column("layout", no_wrap=True)
    table.add_column(last_column, no_wrap=no_wrap)
    table.add_column("size", justify="right", no_wrap=True)
    return table


def add_stack(table: Table, fields: dict[str, Any], last: str) -> None:
    """Add a row for a stack with these fields, and the text of the last column."""
    table.add_row(
        quoted(fields["stack"]),
        f"{fields['layers']} x {fields['experts']}",
        f"{fields['hidden']} x {fields['intermediate']}",
        fields["dtype"],
        fields["layout"],
        Text(last),
        show_size(fields["bytes"]),
    )

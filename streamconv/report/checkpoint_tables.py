"""A source checkpoint as tables for a terminal."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from streamconv.checkpoint.not_carried_over import not_carried_over_notes
from streamconv.checkpoint.types import Checkpoint
from streamconv.detection.detect import Detected
from streamconv.errors import quoted
from streamconv.report.checkpoint_json import source_fields, stack_fields
from streamconv.report.table_parts import copied_files, counted, facts_table, titled_table
from streamconv.units import show_size


def inspection_table(checkpoint: Checkpoint, found: Detected) -> RenderableType:
    """Build the output of `inspect`: facts, then the expert stacks with their shapes."""
    fields = source_fields(checkpoint, found)
    facts = facts_table()
    facts.add_row("checkpoint", quoted(checkpoint.location))
    if checkpoint.revision:
        facts.add_row("commit", quoted(checkpoint.revision))
    family = f"family {found.family.name}" if found.family else "unknown family"
    facts.add_row("model type", f"{quoted(found.model_type or 'not given')} ({family})")
    facts.add_row("form", found.form or "unknown")
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
    for contradiction in checkpoint.contradictions:
        facts.add_row("contradiction", contradiction)
    for note in not_carried_over_notes(checkpoint, checkpoint.others):
        facts.add_row("note", note)
    return Group(facts, Text(), _stacks(found))


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

"""A source checkpoint as tables for a terminal."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from streamconv.checkpoint.tensor_kinds import tensor_kinds
from streamconv.checkpoint.types import Checkpoint
from streamconv.detection.detect import Detected
from streamconv.detection.kinds import kinds_of
from streamconv.detection.stacks import Stack
from streamconv.errors import quoted
from streamconv.report.checkpoint_json import inspection_notes, source_fields, stack_fields
from streamconv.report.table_parts import copied_files, counted
from streamconv.report.tables import Column, Facts, Table
from streamconv.units import show_size

MANY_SHAPES = 3
"""How many shapes are shown of tensors whose names differ only in numbers."""
MANY_FACTS = 20
"""How many contradictions, refusals and notes are shown of each. A spoiled index has thousands."""


def inspection_table(checkpoint: Checkpoint, found: Detected) -> RenderableType:
    """Build the output of `inspect`: facts, then the expert stacks with their shapes."""
    fields = source_fields(checkpoint, found)
    facts: list[tuple[str, str]] = []

    def add(topic: str, fact: str) -> None:
        facts.append((topic, fact))

    add("checkpoint", quoted(checkpoint.location))
    if checkpoint.revision:
        add("commit", quoted(checkpoint.revision))
    known = "" if found.family else " (of no known family)"
    add("model type", f"{quoted(found.model_type or 'not given')}{known}")
    add("form", found.form or "unknown")
    for kind in kinds_of(checkpoint):
        add("this is", kind.says)
    if fields["layers"]:
        add("partial", f"only layers {fields['layers']}")
    add(
        "tensors",
        f"{fields['tensors']:,} in {counted(fields['files'], 'file')} ({checkpoint.format}), "
        f"{show_size(fields['tensor_bytes'])}",
    )
    others = counted(fields["other_tensors"], "tensor")
    add("not experts", f"{others}, {show_size(fields['other_tensor_bytes'])}")
    add("other files", copied_files(checkpoint.others))
    if found.not_found:
        add("not found", f"experts: config.json says {quoted(', '.join(found.not_found))}")
    refusals = [
        [f"{quoted(pattern)}experts: {refusal.message}", *filter(None, [refusal.hint])]
        for pattern, refusal in found.refusals.items()
    ]
    facts += _first("contradiction", [[text] for text in checkpoint.contradictions])
    facts += _first("cannot convert", refusals)
    facts += _first("note", [[text] for text in inspection_notes(checkpoint, found)])
    stacks: list[RenderableType] = [_stacks(found), Text()] if found.stacks else []
    return Group(Facts(facts), Text(), *stacks, _tensors(checkpoint))


def _first(topic: str, found: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Return the first facts under a topic, each with its further lines, and the number of others.

    Args:
        topic: What they are called.
        found: The lines of each fact.
    """
    rows = [
        (topic if number == 0 else "", line)
        for lines in found[:MANY_FACTS]
        for number, line in enumerate(lines)
    ]
    rest = len(found) - MANY_FACTS
    return [*rows, ("", f"... {rest:,} more (--json shows them)")] if rest > 0 else rows


def _tensors(checkpoint: Checkpoint) -> Table:
    """Build the table of all tensors, experts or not, by the patterns of their names."""
    rows = []
    for kind in tensor_kinds(checkpoint.tensors.values()):
        shown = [str(list(shape)) for shape, _ in kind.shapes[:MANY_SHAPES]]
        rest = len(kind.shapes) - len(shown)
        rows.append(
            (
                quoted(kind.pattern),
                f"{kind.count:,}",
                ", ".join(dtype for dtype, _ in kind.dtypes),
                ", ".join([*shown, *([f"{rest} more (--json shows them)"] if rest else [])]),
                show_size(kind.nbytes),
            )
        )
    columns = (
        Column("name"),
        Column("count", is_number=True),
        Column("dtype", rank=1),
        Column("shape", rank=2, wraps=True),
        Column("size", is_number=True),
    )
    return Table("tensors", columns, rows)


def stacks_table(stacks: Sequence[Stack], last_column: Column, last: Sequence[str]) -> Table:
    """Build the table of expert stacks, with the texts of one more column."""
    rows = []
    for stack, text in zip(stacks, last, strict=True):
        fields = stack_fields(stack)
        rows.append(
            (
                quoted(fields["stack"]),
                f"{fields['layers']} x {fields['experts']}",
                f"{fields['hidden']} x {fields['intermediate']}",
                fields["dtype"],
                fields["layout"],
                text,
                show_size(fields["bytes"]),
            )
        )
    columns = (
        Column("stack"),
        Column("layers x experts", rank=2),
        Column("hidden x inter", rank=3),
        Column("dtype", rank=4),
        Column("layout"),
        last_column,
        Column("size", is_number=True, rank=1),
    )
    return Table("expert stacks", columns, rows)


def _stacks(found: Detected) -> Table:
    shapes = [
        ", ".join(f"{shape}" for shape in stack_fields(stack)["shapes"].values())
        for stack in found.stacks
    ]
    return stacks_table(found.stacks, Column("shapes", rank=5, wraps=True), shapes)

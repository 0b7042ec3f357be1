"""Progress as text: a line for a log, or the lines of a bar as wide as the terminal."""

from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from streamconv.report.progress_facts import Progress, amount, place, speed, times
from streamconv.report.schema import document

ONE_LINE_WIDTH = 130
"""Columns of a terminal from which on the bar and all facts are in one line."""
MIN_BAR = 8
"""Columns of the shortest bar that is drawn."""


def progress_line(progress: Progress) -> str:
    """Return the line for a log: `writing: 37%, 22.6 GB of 61.1 GB, 1.90 GB/s, ...`."""
    share = f"{progress.share:.0%}" if progress.total else ""
    facts = [share, amount(progress), speed(progress), *times(progress), *place(progress)]
    return f"{progress.activity}: {', '.join(filter(None, facts))}"


def progress_fields(progress: Progress) -> dict[str, Any]:
    """Build the document of a line of progress with `--json`."""
    left = progress.seconds_left
    fields = {
        "activity": progress.activity,
        "done": progress.done,
        "total": progress.total,
        "unit": progress.noun or "bytes",
        "rate_per_second": None if progress.rate is None else round(progress.rate, 3),
        "seconds": round(progress.seconds, 3),
        "seconds_left": None if left is None else round(left, 3),
        "shard": progress.shard[0] if progress.shard else None,
        "shards": progress.shard[1] if progress.shard else None,
        "where": progress.where or None,
    }
    return document("progress", fields)


def bar_lines(progress: Progress, width: int, *, ascii_only: bool = False) -> list[Text]:
    """Return the bar and its facts, in one line if the terminal is wide, else in two.

    If the second line is too long, its end, the layer's name, is cut and marked with an ellipsis.

    Args:
        progress: The facts.
        width: Columns of the terminal.
        ascii_only: True if the terminal shows no other characters.
    """
    if progress.total is None:
        return [Text(f"{progress.activity}, {', '.join(times(progress))}")]
    head = [progress.activity, f"{progress.share:4.0%}"]
    facts = [text for text in (amount(progress), speed(progress)) if text]
    rest = [*times(progress), *place(progress)]
    if width >= ONE_LINE_WIDTH:
        facts, rest = [*facts, *rest], []
    lines = [_bar_line(head, facts, progress.share, width, ascii_only)]
    if rest:
        lines.append(Text(_cut("  " + ", ".join(rest), width, ascii_only)))
    return lines


def _bar_line(
    head: Sequence[str], facts: Sequence[str], share: float, width: int, ascii_only: bool
) -> Text:
    """Return a line with a bar that fills it, if there is room for one."""
    begin, end = f"{' '.join(head)} ", f" {', '.join(facts)}"
    room = width - cell_len(begin) - cell_len(end) - 1
    if room < MIN_BAR:
        return Text(_cut(begin + end.strip(), width, ascii_only))
    full = round(room * share)
    done, left = ("#", "-") if ascii_only else ("━", "─")
    return Text.assemble(begin, (done * full, "bar.complete"), (left * (room - full), "dim"), end)


def _cut(text: str, width: int, ascii_only: bool) -> str:
    """Return the text in at most `width` columns, with a mark if it is cut."""
    if cell_len(text) < width:
        return text
    mark = "..." if ascii_only else "…"
    return set_cell_size(text, max(width - 1 - len(mark), 0)).rstrip() + mark

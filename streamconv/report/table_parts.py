"""The parts that the tables for a terminal share."""

from collections.abc import Iterable
from typing import Literal

from rich.table import Table

from streamconv.checkpoint.types import OtherFile
from streamconv.units import show_size


def facts_table() -> Table:
    """Build a table of facts: the topic in bold, then the fact."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    return table


def titled_table(title: str, *columns: str) -> Table:
    """Build a table whose first column is text and whose others are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1))
    for number, column in enumerate(columns):
        justify: Literal["left", "right"] = "right" if number else "left"
        table.add_column(column, justify=justify, overflow="fold", min_width=0 if number else 30)
    return table


def counted(number: int, noun: str) -> str:
    """Return `1 shard` or `12,345 shards`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def copied_files(others: Iterable[OtherFile]) -> str:
    """Return how many files without tensors are copied, and their size."""
    copied = [other for other in others if not other.skip_reason]
    return f"{counted(len(copied), 'file')} copied, {show_size(sum(o.size for o in copied))}"

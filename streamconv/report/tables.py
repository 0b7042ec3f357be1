"""Tables that show every fact at any width: columns if there is room, else records.

    wide:    name                 count  dtype   shape         size
             lm_head.weight           1  BF16    [1024, 64]  131 kB

    narrow:  name                 count    size
             lm_head.weight           1  131 kB
               dtype: BF16; shape: [1024, 64]

Columns of the highest rank leave the table first; their cells follow below the row, with titles.
Nothing is cut. Text that is too long for a line continues in the next one, after a word or, in a
long name, after a dot or a slash.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

GAP = 2
"""Columns between two cells."""
INDENT = "    "
"""Indent of the cells below a row."""
BREAKS = "/._-:"
"""A word that is too long for a line is broken after the last of these characters."""
MIN_WRAPPED = 24
"""Least width of a column whose cells are wrapped."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    title: str
    rank: int = 0
    """Columns of a higher rank leave the table first; those of rank 0 stay the longest."""
    is_number: bool = False
    """True to align cells to the right."""
    wraps: bool = False
    """True if a cell may take several lines."""


@dataclass(frozen=True, slots=True)
class Table:
    """A title, columns, and rows with a cell for each column. The first column never leaves."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from table_lines(self, options.max_width)


@dataclass(frozen=True, slots=True)
class Facts:
    """Topics, each with a fact."""

    rows: Sequence[tuple[str, str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from fact_lines(self, options.max_width)


def fact_lines(facts: Facts, width: int) -> Iterator[Text]:
    """Yield the lines of facts: the topic in bold, then the fact, with a hanging indent."""
    indent = max((cell_len(topic) for topic, _ in facts.rows), default=0) + GAP
    for topic, fact in facts.rows:
        for number, line in enumerate(wrap(fact, width - indent)):
            begin = topic if number == 0 else ""
            yield _line((begin.ljust(indent), "bold"), (line, ""))


def table_lines(table: Table, width: int) -> Iterator[Text]:
    """Yield the lines of a table on a terminal that is `width` columns wide."""
    kept, widths = _fit(table, width)
    left = [number for number in range(len(table.columns)) if number not in kept]
    yield _line((table.title, "bold"))
    cells = [[table.columns[number].title] for number in kept]
    yield from _row_lines(table, kept, widths, cells, "bold")
    for row in table.rows:
        cells = [wrap(row[number], size) for number, size in zip(kept, widths, strict=True)]
        yield from _row_lines(table, kept, widths, cells, "")
        below = [f"{table.columns[n].title}: {row[n]}" for n in left if row[n]]
        for line in _below(below, width - len(INDENT)):
            yield _line((INDENT + line, "dim"))


def _below(cells: Sequence[str], width: int) -> Iterator[str]:
    """Yield the cells whose columns have left: all in one line, or else each in its own."""
    together = "; ".join(cells)
    if cell_len(together) <= width:
        yield from [together] if cells else []
        return
    for cell in cells:
        yield from wrap(cell, width)


def _fit(table: Table, width: int) -> tuple[list[int], list[int]]:
    """Return the numbers of the columns that fit, and their widths."""
    numbers = list(range(len(table.columns)))
    while True:
        widths = _widths(table, numbers, width)
        if widths is not None:
            return numbers, widths
        if len(numbers) == 1:
            return numbers, [width - 1]
        numbers.remove(max(numbers[1:], key=lambda n: (table.columns[n].rank, n)))


def _widths(table: Table, numbers: Sequence[int], width: int) -> list[int] | None:
    """Return the widths of these columns, or None if they do not fit."""
    widths = [
        max(cell_len(text) for text in (table.columns[n].title, *(row[n] for row in table.rows)))
        for n in numbers
    ]
    excess = sum(widths) + GAP * len(numbers) - width
    for place, number in enumerate(numbers):
        least = max(MIN_WRAPPED, _longest_word(table, number))
        if excess > 0 and table.columns[number].wraps and widths[place] > least:
            shrunk = max(widths[place] - excess, least)
            excess -= widths[place] - shrunk
            widths[place] = shrunk
    return None if excess > 0 else widths


def _longest_word(table: Table, number: int) -> int:
    """Return the width of the longest word in a column."""
    words = (word for row in table.rows for word in row[number].split(" "))
    return max(map(cell_len, words), default=0)


def _row_lines(
    table: Table,
    numbers: Sequence[int],
    widths: Sequence[int],
    cells: Sequence[Sequence[str]],
    style: str,
) -> Iterator[Text]:
    """Yield the lines of a row; each cell is given as its lines."""
    for position in range(max(map(len, cells))):
        text = " "
        for number, size, lines in zip(numbers, widths, cells, strict=True):
            content = lines[position] if position < len(lines) else ""
            space = " " * (size - cell_len(content))
            is_number = table.columns[number].is_number
            text += (space + content if is_number else content + space) + " " * GAP
        yield _line((text.rstrip(), style))


def _line(*parts: tuple[str, str]) -> Text:
    """Return a line of styled parts that rich neither wraps nor cuts."""
    line = Text.assemble(*parts, no_wrap=True, overflow="ignore")
    line.rstrip()
    return line


def wrap(text: str, width: int) -> list[str]:
    """Return the lines of a text, none wider than `width`, broken after words.

    A word that is wider than a line is broken after one of BREAKS, or else where the line ends.
    """
    lines, line = [], ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if cell_len(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        *full, line = _broken(word, max(width, 1))
        lines += full
    return [*lines, line]


def _broken(word: str, width: int) -> list[str]:
    """Return the parts of a word, none wider than `width`."""
    parts = []
    while cell_len(word) > width:
        end = next(n for n in range(len(word), 0, -1) if n == 1 or cell_len(word[:n]) <= width)
        good = next((n for n in range(end, end // 2, -1) if word[n - 1] in BREAKS), end)
        parts.append(word[:good])
        word = word[good:]
    return [*parts, word]

"""Text, tables and lists in Markdown, as GitHub and MkDocs both read it."""

import re
from collections.abc import Iterable, Iterator, Sequence

_SPECIAL = re.compile(r"([*_<>\[\]|])")


def escaped(text: str) -> str:
    """Return text in which only `code` between backticks is marked up."""
    parts = text.split("`")
    parts[::2] = [_SPECIAL.sub(r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table, and an empty line. Cells are Markdown already."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def lines(*parts: str | Iterable[str]) -> str:
    """Return the lines of a page: texts, and several lines that a function yields."""
    found: list[str] = []
    for part in parts:
        found += [part] if isinstance(part, str) else part
    return "\n".join(found).rstrip("\n") + "\n"

"""Generate the tables of layouts and families in the documents from the package's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.families import FORMS
from streamconv.catalog.listing import family_rows, layout_rows

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Write both tables in every document that has them."""
    for path in documents():
        text = path.read_text(encoding="utf-8")
        if (written := with_tables(text)) != text:
            path.write_text(written, encoding="utf-8")


def documents() -> list[Path]:
    """Return what people read: the Markdown files of the root, and those below docs/."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def with_tables(document: str) -> str:
    """Return the document with its tables as they have to be, if it has their marks."""
    for name, lines in (("layouts", _layouts), ("families", _families)):
        begin, end = marks(name)
        before, mark, rest = document.partition(begin)
        if mark:
            _, _, after = rest.partition(end)
            table = "".join(f"{line}\n" for line in lines())
            document = f"{before}{begin}{table}{end}{after}"
    return document


def marks(name: str) -> tuple[str, str]:
    """Return the lines before and after a table."""
    return f"<!-- {name} -->\n", f"<!-- /{name} -->\n"


def _layouts() -> Iterator[str]:
    yield "| layout | gate and up | down | who uses it |"
    yield "|---|---|---|---|"
    for row in layout_rows(default_catalog()):
        gate_up, down = row["templates"]["gate_up"], row["templates"]["down"]
        yield f"| `{row['layout']}` | `{gate_up}` | `{down}` | {row['used_by']} |"


def _families() -> Iterator[str]:
    yield "| `model_type` | `hub` | `transformers` | `mindspeed` | not to | tested against |"
    yield "|---|---|---|---|---|---|"
    for row in family_rows(default_catalog()):
        forms = (_form(row, form) for form in FORMS)
        types = ", ".join(f"`{name}`" for name in row["model_types"])
        missing = [name for name in default_catalog().layouts if name not in row["layouts"]]
        never = "any" if row["refused"] else ", ".join(missing)
        yield f"| {types} | {' | '.join(forms)} | {never} | {row['tested_against']} |"


def _form(row: dict[str, Any], form: str) -> str:
    if form not in row["forms"]:
        return "none"
    layouts_here = " and ".join(dict.fromkeys(row["forms"][form].values()))
    return f"**{layouts_here}**" if row["merge"] == form else layouts_here


if __name__ == "__main__":
    main()

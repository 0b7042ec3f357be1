"""The tables of layouts and families in the README, written anew from the package's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streamconv.catalog.families import FORMS
from streamconv.catalog.layouts import layouts
from streamconv.catalog.listing import family_rows, layout_rows

README = Path(__file__).parent.parent / "README.md"


def main() -> None:
    """Put both tables in the place of those that are there."""
    README.write_text(written(README.read_text()))


def written(readme: str) -> str:
    """The README with both tables as they have to be."""
    for name, lines in (("layouts", _layouts()), ("families", _families())):
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
        before, _, rest = readme.partition(begin)
        _, _, after = rest.partition(end)
        readme = before + begin + "".join(f"{line}\n" for line in lines) + end + after
    return readme


def _layouts() -> Iterator[str]:
    yield "| layout | gate and up | down | who uses it |"
    yield "|---|---|---|---|"
    for row in layout_rows():
        gate_up, down = row["templates"]["gate_up"], row["templates"]["down"]
        yield f"| `{row['layout']}` | `{gate_up}` | `{down}` | {row['used_by']} |"


def _families() -> Iterator[str]:
    yield "| `model_type` | `hub` | `transformers` | `mindspeed` | not to | tested against |"
    yield "|---|---|---|---|---|---|"
    for row in family_rows():
        forms = (_form(row, form) for form in FORMS)
        types = ", ".join(f"`{name}`" for name in row["model_types"])
        missing = [name for name in layouts() if name not in row["layouts"]]
        never = "any" if row["refused"] else ", ".join(missing)
        yield f"| {types} | {' | '.join(forms)} | {never} | {row['tested_against']} |"


def _form(row: dict[str, Any], form: str) -> str:
    if form not in row["forms"]:
        return "none"
    layouts_here = " and ".join(dict.fromkeys(row["forms"][form].values()))
    return f"**{layouts_here}**" if row["merge"] == form else layouts_here


if __name__ == "__main__":
    main()

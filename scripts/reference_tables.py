"""The references of errors, families and layouts."""

import itertools
from collections.abc import Iterator
from typing import Any

from markdown_text import escaped, lines, table

import streamconv
from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.families import FORMS
from streamconv.catalog.listing import family_rows, layout_rows
from streamconv.errors import StreamconvError


def errors_page() -> str:
    """Return the page of errors and exit codes."""
    return lines(
        "# Errors and exit codes",
        "",
        "The command line prints an error in one line, with a hint below it. It ends with the exit "
        "code of the class. In Python, the `message` and `hint` of an error have the same text. "
        "If the conversion can be resumed, a note of the error (`__notes__`) says so.",
        "",
        "[Troubleshooting](../troubleshooting.md) explains single messages.",
        "",
        table(
            ("exit code", "class", "meaning"),
            [
                ("0", "", "done"),
                *(
                    (_code(error), f"`{_path(error)}`", _meaning(error))
                    for error in _tree(StreamconvError)
                ),
            ],
        ),
        "An option that does not exist is a `TypeError` of Python.",
    )


def layouts_page() -> str:
    """Return the page of layouts."""
    return lines(
        "# Layouts",
        "",
        "One template for each weight says where its axes live: `e` expert, `p` gate or up, `d` "
        "down, `i` intermediate, `h` hidden. [Forms and layouts](../guides/forms-and-layouts.md) "
        "explains the notation. `streamconv layouts` prints this table.",
        "",
        table(
            ("layout", "gate and up", "down", "who uses it"),
            (
                (
                    f"`{row['layout']}`",
                    f"`{row['templates']['gate_up']}`",
                    f"`{row['templates']['down']}`",
                    row["used_by"],
                )
                for row in layout_rows(default_catalog())
            ),
        ),
    )


def families_page() -> str:
    """Return the page of families."""
    return lines(
        "# Model families",
        "",
        "The layout of the experts in each [form](../guides/forms-and-layouts.md) of a family. "
        "`merge` makes the form in bold. Experts of any other model type are found if they have "
        "such names, and merge to `fused`. `streamconv families` prints this table.",
        "",
        table(
            ("`model_type`", "`hub`", "`transformers`", "`mindspeed`", "not to", "tested against"),
            _family_rows(),
        ),
    )


def _family_rows() -> Iterator[tuple[str, ...]]:
    for row in family_rows(default_catalog()):
        forms = (_form(row, form) for form in FORMS)
        types = ", ".join(f"`{name}`" for name in row["model_types"])
        missing = [name for name in default_catalog().layouts if name not in row["layouts"]]
        never = "any" if row["refused"] else ", ".join(missing)
        yield types, *forms, never, row["tested_against"]


def _form(row: dict[str, Any], form: str) -> str:
    if form not in row["forms"]:
        return "none"
    by_stack = row["forms"][form].values()
    word = " or " if any(len(layouts) > 1 for layouts in by_stack) else " and "
    layouts_here = word.join(dict.fromkeys(itertools.chain(*by_stack)))
    return f"**{layouts_here}**" if row["merge"] == form else layouts_here


def _tree(error: type[StreamconvError]) -> Iterator[type[StreamconvError]]:
    """Yield a class of errors and all that are derived from it, each after its parent."""
    yield error
    for derived in error.__subclasses__():
        if derived.__module__ == "streamconv.errors":
            yield from _tree(derived)


def _code(error: type[StreamconvError]) -> str:
    return "130, 143 after SIGTERM" if error is streamconv.Interrupted else f"{error.exit_code}"


def _path(error: type[StreamconvError]) -> str:
    exported = error.__name__ in streamconv.__all__
    return f"streamconv.{error.__name__}" if exported else f"streamconv.errors.{error.__name__}"


def _meaning(error: type[StreamconvError]) -> str:
    return escaped(" ".join((error.__doc__ or "").split()))

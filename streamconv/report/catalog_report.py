"""The known families and layouts, as JSON fields and as tables for a terminal."""

from typing import Any

from rich.table import Table
from rich.text import Text

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.families import FORMS
from streamconv.catalog.listing import family_rows, layout_rows
from streamconv.report.schema import document
from streamconv.report.table_parts import titled_table


def families_fields() -> dict[str, Any]:
    """Build the document of `families --json`."""
    return document("families", {"families": list(family_rows(default_catalog()))})


def layouts_fields() -> dict[str, Any]:
    """Build the document of `layouts --json`."""
    return document("layouts", {"layouts": list(layout_rows(default_catalog()))})


def families_table() -> Table:
    """Build the output of `families`: the layouts of each form, and the form of a merge."""
    table = titled_table("families", "model types", *FORMS, "merges to")
    for row in family_rows(default_catalog()):
        forms = (", ".join(dict.fromkeys(row["forms"].get(form, {}).values())) for form in FORMS)
        merge = "refused" if row["refused"] else row["merge"]
        table.add_row(", ".join(row["model_types"]), *forms, merge)
    return table


def layouts_table() -> Table:
    """Build the output of `layouts`: the axes of each layout, in names and shapes."""
    table = titled_table("layouts", "layout", "gate and up", "down", "who uses it")
    for row in layout_rows(default_catalog()):
        templates = row["templates"]
        gate_up, down = Text(templates["gate_up"]), Text(templates["down"])
        table.add_row(row["layout"], gate_up, down, row["used_by"])
    return table

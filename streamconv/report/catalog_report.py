"""The known families and layouts, as JSON fields and as tables for a terminal."""

import itertools
from collections.abc import Sequence
from typing import Any

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.families import FORMS
from streamconv.catalog.listing import family_rows, layout_rows
from streamconv.errors import UsageError, did_you_mean, quoted
from streamconv.report.schema import document
from streamconv.report.tables import Column, Table

Rows = list[dict[str, Any]]


def families_fields(wanted: Sequence[str] = ()) -> dict[str, Any]:
    """Build the document of `families --json`."""
    return document("families", {"families": _families(wanted)})


def layouts_fields(wanted: Sequence[str] = ()) -> dict[str, Any]:
    """Build the document of `layouts --json`."""
    return document("layouts", {"layouts": _layouts(wanted)})


def families_table(wanted: Sequence[str] = ()) -> Table:
    """Build the output of `families`: the layouts of each form, and the form of a merge.

    Args:
        wanted: Model types; by default all.

    Raises:
        UsageError: One of them is in no family.
    """
    rows = []
    for row in _families(wanted):
        layouts = (row["forms"].get(form, {}).values() for form in FORMS)
        forms = (", ".join(dict.fromkeys(itertools.chain(*each))) for each in layouts)
        merge = "refused" if row["refused"] else row["merge"]
        rows.append((", ".join(row["model_types"]), *forms, merge))
    forms_columns = (Column(form, rank=rank) for form, rank in zip(FORMS, (1, 2, 3), strict=True))
    columns = (Column("model types", wraps=True), *forms_columns, Column("merges to"))
    return Table("families", columns, rows)


def layouts_table(wanted: Sequence[str] = ()) -> Table:
    """Build the output of `layouts`: the axes of each layout, in names and shapes.

    Args:
        wanted: Layouts; by default all.

    Raises:
        UsageError: There is no such layout.
    """
    rows = [
        (
            row["layout"],
            row["templates"]["gate_up"],
            row["templates"]["down"],
            row["used_by"],
        )
        for row in _layouts(wanted)
    ]
    columns = (
        Column("layout"),
        Column("gate and up"),
        Column("down", rank=1),
        Column("who uses it", rank=2, wraps=True),
    )
    return Table("layouts", columns, rows)


def _families(wanted: Sequence[str]) -> Rows:
    rows = list(family_rows(default_catalog()))
    known = [name for row in rows for name in row["model_types"]]
    for name in wanted:
        if name not in known:
            raise UsageError(
                f"the model type {quoted(repr(name))} is in no family",
                did_you_mean(name, known) or "run `streamconv families` to see all",
            )
    return [row for row in rows if not wanted or not set(wanted).isdisjoint(row["model_types"])]


def _layouts(wanted: Sequence[str]) -> Rows:
    for name in wanted:
        default_catalog().find_layout(name)
    return [r for r in layout_rows(default_catalog()) if not wanted or r["layout"] in wanted]

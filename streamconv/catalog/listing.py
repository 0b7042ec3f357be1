"""What is known: the tables of families and of layouts, as people and programs read them. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from streamconv.catalog.catalog import Catalog
from streamconv.catalog.families import FORMS, HUB_NAMES, Family, Form
from streamconv.catalog.layouts import REQUIRED, Layout
from streamconv.catalog.templates import Template

SAMPLE = {"e": 11, "p": 2, "d": 1, "i": 20, "h": 32}
"""Sizes under which layouts look alike only if they always do."""


def layout_rows(catalog: Catalog) -> Iterator[dict[str, Any]]:
    """Each layout: its templates by weight, and who uses it."""
    for layout in catalog.layouts.values():
        yield {
            "layout": layout.name,
            "templates": {w: str(t) for w, t in layout.templates.items()},
            "used_by": layout.used_by,
        }


def family_rows(catalog: Catalog) -> Iterator[dict[str, Any]]:
    """Each family: its model types, its layouts in every form, what it converts to."""
    for family in catalog.families.values():
        yield {
            "family": family.name,
            "model_types": list(family.model_types),
            "forms": {form: layouts_of(family, form) for form in FORMS if form in family.forms},
            "without": dict(family.without),
            "merge": family.merge,
            "layouts": [] if family.refused else converts_to(family, catalog),
            "refused": family.refused or None,
            "tested_against": tested_against(family),
        }


def layouts_of(family: Family, form: str) -> dict[str, str]:
    """Pattern of each stack to its layout in a form, where the form mentions it."""
    found = ((stack, family.forms[form].layout_of(stack)) for stack in family.stacks)
    return {stack: layout.name for stack, layout in found if layout}


def converts_to(family: Family, catalog: Catalog) -> list[str]:
    """The layouts that the experts of the hub's checkpoint can become."""
    hub = family.forms[HUB_NAMES.name]
    return [
        name
        for name, layout in catalog.layouts.items()
        if not any(_alike(hub, stack, layout) for stack in family.stacks)
    ]


def _alike(hub: Form, stack: str, layout: Layout) -> bool:
    """Whether a layout would look like the one that the hub has."""
    meant = hub.layout_of(stack)
    return meant not in (None, layout) and _looks(meant) == _looks(layout)


def _looks(layout: Layout | None) -> list[tuple[str, tuple[int, ...]]]:
    templates: Mapping[str, Template] = layout.templates if layout else {}
    return [(templates[w].name, templates[w].shape(SAMPLE)) for w in REQUIRED if w in templates]


def tested_against(family: Family) -> str:
    """What the tests hold a family against."""
    if family.refused:
        return "refused"
    if "transformers" in family.without:
        return "transformers, the experts"
    if "transformers" not in family.forms:
        return "formulas"
    return (
        f"transformers' {family.transformers_model_type}"
        if family.transformers_model_type
        else "transformers"
    )

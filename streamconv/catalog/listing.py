"""The families and layouts of a catalog, as the commands and the documents list them."""

from collections.abc import Iterator
from typing import Any

from streamconv.catalog.catalog import Catalog
from streamconv.catalog.families import FORMS, HUB_NAMES, Family, Form
from streamconv.catalog.layouts import Layout
from streamconv.catalog.weight_kinds import MATRICES

SAMPLE_SIZES = {"e": 11, "p": 2, "d": 1, "i": 20, "h": 32}
"""Sizes for which two layouts have equal shapes only if their shapes are equal for all sizes."""


def layout_rows(catalog: Catalog) -> Iterator[dict[str, Any]]:
    """Yield a row for each layout: its templates by weight, and who uses it."""
    for layout in catalog.layouts.values():
        yield {
            "layout": layout.name,
            "templates": {weight: str(each) for weight, each in layout.templates.items()},
            "used_by": layout.used_by,
        }


def family_rows(catalog: Catalog) -> Iterator[dict[str, Any]]:
    """Yield a row for each family: its model types, its forms, and the layouts it converts to."""
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


def layouts_of(family: Family, form: str) -> dict[str, list[str]]:
    """Return the layouts that each stack which a form changes can have in it, by its pattern."""
    found = ((stack, family.forms[form].layouts_of(stack)) for stack in family.stacks)
    return {stack: [layout.name for layout in layouts] for stack, layouts in found if layouts}


def converts_to(family: Family, catalog: Catalog) -> list[str]:
    """Return the layouts that the experts of a checkpoint from the hub can be converted to."""
    hub = family.forms[HUB_NAMES.name]
    return [
        name
        for name, layout in catalog.layouts.items()
        if not any(_alike(hub, stack, layout) for stack in family.stacks)
    ]


def _alike(hub: Form, stack: str, layout: Layout) -> bool:
    """Return True if a layout differs from the hub's but has the same names and shapes."""
    hub_layout = hub.layout_of(stack)
    if hub_layout is None or hub_layout is layout:
        return False
    return _names_and_shapes(hub_layout) == _names_and_shapes(layout)


def _names_and_shapes(layout: Layout) -> list[tuple[str, tuple[int, ...]]]:
    templates = (layout.templates[weight] for weight in MATRICES)
    return [(template.name, template.shape(SAMPLE_SIZES)) for template in templates]


def tested_against(family: Family) -> str:
    """Return the reference that the tests compare a family with."""
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

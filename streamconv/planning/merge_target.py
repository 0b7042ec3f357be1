"""Choose the target of `merge`, if the user names no form or layout."""

from streamconv.catalog.families import Family
from streamconv.checkpoint.tensor_names import summarize_names
from streamconv.detection.detect import Detected
from streamconv.detection.stacks import Stack
from streamconv.errors import quoted

MERGE_UNKNOWN = "fused"
"""The layout that merging gives to a model type in no family."""
MERGE_UNGATED = "stacked"
"""The same for experts without a gate, which have nothing to fuse."""


def merge_target(source: Detected) -> tuple[str, str]:
    """Return the form or layout that merging makes of `source`, and the reason."""
    family = source.family
    if family is not None and source.foreign:
        found = ", ".join(f"{quoted(pattern)}experts" for pattern in source.foreign)
        layout = _merged_layout(family)
        return layout, f"{found} is not a stack of {quoted(source.model_type)}"
    if family is not None and source.unknown_names:
        layout = _merged_layout(family)
        if any(stack.row.layout.name != layout for stack in source.stacks):
            names = summarize_names(source.unknown_names)
            return layout, f"{quoted(source.model_type)} has no such names: {names}"
    if family is not None:
        return family.merge, f"what merging makes of {quoted(source.model_type)}"
    layout = MERGE_UNKNOWN if all(map(_has_gates, source.stacks)) else MERGE_UNGATED
    if source.model_type:
        return layout, f"model type {quoted(source.model_type)} is in no family"
    return layout, "config.json has no model type"


def _has_gates(stack: Stack) -> bool:
    """Return True if each expert of a stack has a gate next to its up projection."""
    return len(stack.row.naming.tokens["p"]) > 1


def _merged_layout(family: Family) -> str:
    """Return the layout that `merge` gives to experts under names that `family` does not have."""
    form = family.forms.get(family.merge)
    if form is None:
        return family.merge
    found = (form.layout_of(pattern) for pattern in family.stacks)
    return next((layout.name for layout in found if layout), MERGE_UNKNOWN)

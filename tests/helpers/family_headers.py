"""Headers of a small checkpoint of any family in any form, built from the family's row.

Two layers of experts, the tensors of each group, and a tensor for each rename. What is to be
expected of a conversion is not in here.
"""

import itertools
from dataclasses import replace
from typing import Any

from header_models import Tensors, checkpoint_of

from streamconv.catalog.families import Family, Form
from streamconv.catalog.groups import Group
from streamconv.catalog.layouts import NamedLayout
from streamconv.checkpoint.layout_record import LayoutNames, Record
from streamconv.checkpoint.types import Checkpoint

SIZES = {"e": 3, "i": 4, "h": 6, "j": 2, "k": 3, "g": 1, "q": 1, "n": 2}
GROUP_SIZE = 2
"""Size of the axes of a group, and of what config.json says of them."""


def checkpoint_in_form(
    family: Family,
    form: Form,
    experts: tuple[str, str] | None = None,
    others: dict[str, str] | None = None,
) -> tuple[Checkpoint, dict[str, str]]:
    """A checkpoint, and the weight of each companion in it, by their names.

    Args:
        family: Its family.
        form: The form that it is in.
        experts: What the names of the experts' companions end in: after a dot in the place of
            `weight`, and after another name.
        others: The same for all companions of the tensors that are renamed.
    """
    owners: dict[str, str] = {}
    tensors: Tensors = {}
    for pattern in family.stacks:
        row = family.layout_for(pattern, form) or family.layout_for(pattern, family.forms["hub"])
        assert row is not None
        for layer in "01":
            _add_experts(tensors, owners, form, pattern.replace("*", layer), row, experts)
    groups = dict.fromkeys(group for f in family.forms.values() for group in f.groups)
    config: dict[str, Any] = {"model_type": family.model_types[0]}
    for section in family.stacks.values():
        _set(config, f"{section}.num_experts".lstrip("."), SIZES["e"])
    for group in groups:
        _add_group(tensors, config, form, group)
    for name in _renamed(family, form):
        tensors.setdefault(name, ("BF16", (2, 2)))
        if not name.endswith("bias"):
            for ending, bare in (others or {}).items():
                companion = _spelled(form, named_like(name, ending, bare))
                tensors.setdefault(companion, ("F32", (2,)))
                owners[companion] = name
    stacks = {
        pattern: LayoutNames.of(row)
        for pattern in family.stacks
        if (row := family.layout_for(pattern, form) or family.layout_for(pattern, hub(family)))
    }
    made = checkpoint_of(tensors, family.model_types[0])
    return replace(made, config=config, record=Record(form.name, form.name, stacks)), owners


def hub(family: Family) -> Form:
    return family.forms["hub"]


def named_like(weight: str, ending: str, bare: str) -> str:
    """The name of a companion: `ending` in the place of `weight`, or `bare` after another name."""
    for separator in "._":
        if weight.endswith(f"{separator}weight"):
            return weight.removesuffix("weight") + ending
    return weight + bare


def _spelled(form: Form, name: str) -> str:
    """A name as the form spells it, if it is one that the form never gives."""
    return name if form.apply(form.undo(name)) == name else form.apply(name)


def _add_experts(
    tensors: Tensors,
    owners: dict[str, str],
    form: Form,
    prefix: str,
    row: NamedLayout,
    kind: tuple[str, str] | None,
) -> None:
    sizes = {**SIZES, **row.sizes()}
    for matrix in ("gate_up", "down"):
        template = row.layout.templates[matrix]
        beside = row.layout.templates.get(matrix + kind[1]) if kind else None
        for position in itertools.product(*(range(sizes[axis]) for axis in template.name_axes)):
            name = form.apply(prefix + row.name(template, position))
            tensors[name] = ("BF16", template.shape(sizes))
            if kind:
                shape = beside.shape(sizes) if beside else (1,)
                companion = _spelled(form, named_like(name, *kind))
                tensors[companion] = ("F32", shape)
                owners[companion] = name


def _add_group(tensors: Tensors, config: dict[str, Any], form: Form, group: Group) -> None:
    row = form.layout_for(group)
    sizes = {axis: len(tokens) for axis, tokens in row.naming.tokens.items()}
    for axis, size in group.sizes:
        sizes[axis] = size if isinstance(size, int) else GROUP_SIZE
        if not isinstance(size, int):
            _set(config, size[0], GROUP_SIZE)
    prefix = group.where.replace("*", "0")
    prefix = prefix if prefix.endswith(".") else f"{prefix}."
    shapes: dict[str, tuple[int, ...]] = {}
    for template in row.layout.templates.values():
        known = {
            axis: sizes.get(axis, GROUP_SIZE) for axis in (*template.axes, *template.name_axes)
        }
        for position in itertools.product(*(range(known[axis]) for axis in template.name_axes)):
            name = form.apply(prefix + row.name(template, position))
            shape = template.shape(known)
            before = shapes.get(name)
            shapes[name] = (before[0] + shape[0], *shape[1:]) if before else shape
    tensors.update({name: ("BF16", shape) for name, shape in shapes.items()})


def _set(config: dict[str, Any], path: str, value: int) -> None:
    *sections, key = path.split(".")
    for section in sections:
        config = config.setdefault(section, {})
    config[key] = value


def _renamed(family: Family, form: Form) -> list[str]:
    """A name in `form` for each rename of the family that such a name comes back from."""
    found = []
    for other in family.forms.values():
        for rename in other.renames:
            *stars, last = rename.hub_name.split("*")
            name = "0".join([*stars, last]) if last else "0".join(stars) + "x.weight"
            if "expert" not in name and all(f.is_reversible(name) for f in family.forms.values()):
                found.append(form.apply(name))
    return found

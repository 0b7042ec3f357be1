"""The layouts and namings there are: rows of `data/layouts.toml`. Pure.

A layout is axes only. `NamedLayout` is a layout together with what the projections are called,
which is all that is needed to write a stack's tensor names and shapes, or to recognise them.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from streamconv.catalog.templates import Template
from streamconv.errors import UsageError

REQUIRED = ("gate_up", "down")
"""The matrices that a layout describes, one template each."""

_PART = ".weight"


@dataclass(frozen=True, eq=False)
class Naming:
    """What the positions on the projection axes are called: `p` gate and up, `d` down.

    Namings and layouts are loaded once, so that one is equal to itself alone.
    """

    name: str
    tokens: Mapping[str, tuple[str, ...]]
    auto_detect: bool = True
    """Whether it is looked for in checkpoints of families that do not name it, too."""


@dataclass(frozen=True)
class WeightKind:
    """A kind of weight that an expert may have of each projection: itself, its bias, its scales."""

    suffix: str
    """What it adds to the name of a weight and of a tensor: ``, `_bias`, `_scale_inv`."""
    part: str
    """What stands in a name in the place of `weight`."""
    axes: Mapping[str, Mapping[str, tuple[str, ...]]]
    """Of gate_up and down, what stands in the place of an axis of theirs."""
    body: bool
    blocks: frozenset[str]
    packed: bool


@dataclass(frozen=True, eq=False)
class Layout:
    """Where every axis of the expert weights lives, one template a weight."""

    name: str
    used_by: str
    templates: Mapping[str, Template]
    """By weight: `gate_up`, `down`, and with the suffix of each kind that has a place here."""
    whole: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By weight: an axis, and the one that counts its blocks, of which there have to be whole
    ones because another axis begins where it ends."""

    def before(self, weight: str, sizes: Mapping[str, int]) -> int:
        """Elements that stand before a weight in its tensor.

        Weights of one name are in one tensor, one behind the other in the order of `templates`.
        """
        wanted, elements = self.templates[weight].name, 0
        for other, template in self.templates.items():
            if other == weight:
                break
            if template.name == wanted:
                elements += math.prod(sizes[axis] for axis in template.axes)
        return elements


@dataclass(frozen=True)
class NamedLayout:
    """A layout under a naming."""

    layout: Layout
    naming: Naming

    def sizes(self) -> dict[str, int]:
        """The axis sizes that the naming settles: two projections on `p`, one on `d`."""
        return {axis: len(tokens) for axis, tokens in self.naming.tokens.items()}

    def token(self, axis: str, position: int) -> str:
        """What a position on `axis` is called in a tensor's name: its number, unless listed."""
        tokens = self.naming.tokens.get(axis)
        return tokens[position] if tokens else str(position)

    def name(self, template: Template, position: Sequence[int | None]) -> str:
        """What a tensor is called below its module's prefix, by its position on the axes in the
        name; `*` stands for one that is None."""
        at = zip(template.name_axes, position, strict=True)
        return template.tensor_name({a: "*" if k is None else self.token(a, k) for a, k in at})

    def names(self, template: Template) -> Iterator[tuple[str, tuple[int | None, ...]]]:
        """All that the tensors of one template are called, each with its position; None on axes
        whose positions are numbers."""
        lists = [self.naming.tokens.get(axis) for axis in template.name_axes]
        for position in itertools.product(*(range(len(t)) if t else (None,) for t in lists)):
            yield self.name(template, position), position

    def names_projections(self) -> bool:
        """Whether the names of its tensors tell the naming."""
        axes = {a for template in self.layout.templates.values() for a in template.name_axes}
        return any(axis in axes for axis in self.naming.tokens)


def read_weight_kind(row: Mapping[str, Any]) -> WeightKind:
    """Read a row of the table `weights`."""
    axes = {
        weight: {axis: tuple(text.split()) for axis, text in row.get(weight, {}).items()}
        for weight in REQUIRED
    }
    blocks, packed = frozenset(row.get("blocks", ())), row.get("packed", False)
    return WeightKind(
        row.get("suffix", ""), row["part"], axes, row.get("body", False), blocks, packed
    )


def read_layout(name: str, row: Mapping[str, Any], kinds: Iterable[WeightKind]) -> Layout:
    """Read a row of the table `layouts`, and derive a template for each kind of weight.

    Raises UsageError if the row is not a layout.
    """
    texts = {weight: text for weight, text in row.items() if weight != "used_by"}
    if not all(isinstance(text, str) for text in texts.values()) or not {*REQUIRED} <= {*texts}:
        raise UsageError(f"layout {name!r} needs a template of {' and of '.join(REQUIRED)}")
    stated = {weight: Template.parse(text) for weight, text in texts.items()}
    templates: dict[str, Template] = {}
    whole: dict[str, Mapping[str, str]] = {}
    for kind, weight in itertools.product(kinds, REQUIRED):
        key = weight + kind.suffix
        template = stated.get(key) or _companion(stated[weight], kind, kind.axes[weight])
        if template is not None:
            templates[key] = template
            whole[key] = _whole(template, kind, kind.axes[weight])
    unknown = next((weight for weight in stated if weight not in templates), None)
    if unknown is not None:
        raise UsageError(f"layout {name!r}: there is no weight called {unknown!r}")
    return Layout(
        name, str(row.get("used_by", "")), MappingProxyType(templates), MappingProxyType(whole)
    )


def _companion(
    template: Template, kind: WeightKind, axes: Mapping[str, tuple[str, ...]]
) -> Template | None:
    """The template of a kind of weight beside the matrix itself; None where it has no place."""
    dims: list[tuple[str, ...]] = []
    for dim in template.dims:
        if kind.packed and any(axis in axes for axis in dim):
            if len(dim) > 1 or dim != template.dims[-1]:
                return None
            dims += [(own,) for own in axes[dim[0]]]
        elif any(own in kind.blocks for axis in dim[:-1] if axis in axes for own in axes[axis]):
            return None
        else:
            dims.append(tuple(own for axis in dim for own in axes.get(axis, (axis,))))
    if template.name.endswith(_PART):
        name = f"{template.name.removesuffix(_PART)}.{kind.part}"
    else:
        name = template.name + kind.suffix
    return Template(name, tuple(dim for dim in dims if dim))


def _whole(
    template: Template, kind: WeightKind, axes: Mapping[str, tuple[str, ...]]
) -> Mapping[str, str]:
    counted = {own: axis for axis, owns in axes.items() for own in owns if own in kind.blocks}
    return {
        counted[axis]: axis
        for dim in template.dims
        if len(dim) > 1
        for axis in dim
        if axis in counted
    }


def read_naming(name: str, row: Mapping[str, Any]) -> Naming:
    """Read a row of the table `namings`. Raises UsageError if it does not name each projection."""
    tokens = {axis: tuple(t) for axis, t in row.items() if isinstance(t, list)}
    if {*tokens} != {"p", "d"} or not all(
        isinstance(token, str) and token for names in tokens.values() for token in names
    ):
        raise UsageError(
            f"naming {name!r} has to list what the projections p and d are called",
            'write p = ["gate_proj", "up_proj"] and d = ["down_proj"]',
        )
    return Naming(name, MappingProxyType(tokens), row.get("auto_detect", True) is True)


def find_layout(layouts: Mapping[str, Layout], name: str) -> Layout:
    """Return the layout called `name`. Raises UsageError that lists the layouts."""
    try:
        return layouts[name]
    except KeyError:
        raise UsageError(
            f"there is no layout called {name!r}", f"choose from {', '.join(layouts)}"
        ) from None

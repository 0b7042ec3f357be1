"""Layouts and namings: rows of `data/layouts.toml`.

A layout says where the axes of the expert weights are, a naming what the projections are called.
Both together, a `NamedLayout`, determine the names and shapes of the tensors of a stack. For
example, the layout `per-expert` under the naming `qwen` has `experts.{e}.gate_proj.weight` of shape
[I, H].
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from streamconv.catalog.frozen_map import FrozenMap
from streamconv.catalog.templates import Template
from streamconv.catalog.weight_kinds import MATRICES, WeightKind
from streamconv.errors import UsageError, did_you_mean, quoted

PER_EXPERT = "per-expert"
"""The layout with a tensor for each projection of each expert, as `streamconv split` writes it."""


@dataclass(frozen=True, eq=False)
class Naming:
    """Names of the positions on the projection axes: `p` gate and up, `d` down.

    A naming, like a layout, is equal only to itself: a catalog holds each one once.
    """

    name: str
    tokens: Mapping[str, tuple[str, ...]]
    auto_detect: bool = True
    """False if only the families that name it can have it."""

    def is_interchangeable(self, other: "Naming") -> bool:
        """Return True if both name as many projections, gates included."""
        return all(len(self.tokens[axis]) == len(t) for axis, t in other.tokens.items())


@dataclass(frozen=True, eq=False)
class Layout:
    """The place of every axis of the expert weights, as one template for each weight."""

    name: str
    used_by: str
    templates: Mapping[str, Template]
    """By weight: `gate_up`, `down`, and these with the suffix of each kind that it can store."""
    whole_blocks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By weight: axes that have to be a whole number of blocks, and the axes that count the blocks.

    In such a dimension, another axis begins where this one ends, and no block may span both.
    """
    kinds: Mapping[str, WeightKind] = field(default_factory=dict)
    """By weight: its kind."""

    def __repr__(self) -> str:
        return f"<Layout {self.name}>"

    @cached_property
    def name_axes(self) -> frozenset[str]:
        """The axes whose positions are in the names of its tensors."""
        return frozenset(a for template in self.templates.values() for a in template.name_axes)

    def shared_axes(self, weight: str) -> frozenset[str]:
        """Return the axes (experts, projections) along which one number is shared by all."""
        kind = self.kinds.get(weight)
        return kind.shared_axes(kind.matrix(weight)) if kind else frozenset()

    def elements_before(self, weight: str, sizes: Mapping[str, int]) -> int:
        """Count the elements in front of a weight in its tensor.

        Weights of one kind and name are concatenated in one tensor, in the order of `templates`.
        """
        name, kind, elements = self.templates[weight].name, self.kinds.get(weight), 0
        for other, template in self.templates.items():
            if other == weight:
                break
            if template.name == name and self.kinds.get(other) is kind:
                elements += math.prod(sizes[axis] for axis in template.axes)
        return elements

    def places(self, weights: Iterable[str], source: "Layout") -> Mapping[str, str]:
        """Return the weight of this layout that takes the numbers of each weight of another one.

        It is the weight of the same key, with one exception. If experts or projections share
        numbers in the source but are separate tensors here, each gets a copy: a weight of the kind
        that `WeightKind.apart` names, for gate_up and down alike.

        Args:
            weights: The weights of a stack.
            source: The layout that the stack has.

        Returns:
            The weight in this layout, by the weight in the source. Weights without a place in this
            layout are missing.
        """
        kinds: dict[WeightKind | None, list[str]] = {}
        for weight in weights:
            kinds.setdefault(source.kinds.get(weight), []).append(weight)
        found: dict[str, str] = {}
        for kind, alike in kinds.items():
            choices = [{weight: weight for weight in alike}]
            if kind is not None and kind.apart is not None:
                choices.append({weight: kind.matrix(weight) + kind.apart for weight in alike})
            whole = (c for c in choices if all(place in self.templates for place in c.values()))
            found |= next(whole, {w: w for w in alike if w in self.templates})
        return FrozenMap(found)


@dataclass(frozen=True)
class NamedLayout:
    """A layout under a naming."""

    layout: Layout
    naming: Naming
    is_spelled: bool = False
    """True if some matrices in this layout have other names than its templates give."""

    def __repr__(self) -> str:
        return f"<NamedLayout {self.layout.name}, {self.naming.name}>"

    def sizes(self) -> dict[str, int]:
        """Return the axis sizes that the naming settles: two projections on `p`, one on `d`."""
        return {axis: len(tokens) for axis, tokens in self.naming.tokens.items()}

    def token(self, axis: str, position: int) -> str:
        """Return the text for a position on `axis` in a name: the naming's, else the number."""
        tokens = self.naming.tokens.get(axis)
        return tokens[position] if tokens else str(position)

    def name(self, template: Template, position: Sequence[int | None]) -> str:
        """Return a tensor's name below its module's prefix, by its position on the name's axes.

        A position of None becomes `*`.
        """
        at = zip(template.name_axes, position, strict=True)
        return template.tensor_name({a: "*" if k is None else self.token(a, k) for a, k in at})

    def names(self, template: Template) -> Iterator[tuple[str, tuple[int | None, ...]]]:
        """Yield all names of the tensors of a template, each with its position.

        Positions that are numbers in the name are not listed one by one: their position is None,
        and the name has `*`.
        """
        lists = [self.naming.tokens.get(axis) for axis in template.name_axes]
        for position in itertools.product(*(range(len(t)) if t else (None,) for t in lists)):
            yield self.name(template, position), position

    def names_projections(self) -> bool:
        """Return True if the names of its tensors show the naming."""
        return not self.layout.name_axes.isdisjoint(self.naming.tokens)


def read_layout(name: str, row: Mapping[str, Any], kinds: Iterable[WeightKind]) -> Layout:
    """Read a row of the table `layouts`, and derive a template for each kind of weight.

    The row has passed the checks of `row_fields`. Raises UsageError if it is not a layout.
    """
    texts = {weight: text for weight, text in row.items() if weight != "used_by"}
    declared = {weight: Template.parse(text) for weight, text in texts.items()}
    templates: dict[str, Template] = {}
    whole_blocks: dict[str, Mapping[str, str]] = {}
    kinds_of: dict[str, WeightKind] = {}
    for kind, weight in itertools.product(kinds, MATRICES):
        key = weight + kind.key
        template = declared.get(key) or kind.template(weight, declared[weight])
        if template is not None:
            templates[key] = template
            whole_blocks[key] = _whole_blocks(template, kind, weight)
            kinds_of[key] = kind
    unknown = next((weight for weight in declared if weight not in templates), None)
    if unknown is not None:
        raise UsageError(
            f"cannot use the layout {name!r}: there is no weight called {unknown!r}",
            "name a weight gate_up or down, with the suffix of a kind of weight",
        )
    return Layout(
        name,
        row.get("used_by", ""),
        FrozenMap(templates),
        FrozenMap(whole_blocks),
        FrozenMap(kinds_of),
    )


def _whole_blocks(template: Template, kind: WeightKind, matrix: str) -> Mapping[str, str]:
    """Return the axes that count blocks in dimensions of several axes, by the axes they divide."""
    counted = kind.counted(matrix)
    return {
        counted[axis]: axis
        for dim in template.dims
        if len(dim) > 1
        for axis in dim
        if axis in counted
    }


def read_naming(name: str, row: Mapping[str, Any]) -> Naming:
    """Read a row of the table `namings`, which has passed the checks of `row_fields`."""
    tokens = {axis: tuple(row[axis]) for axis in ("p", "d")}
    return Naming(name, FrozenMap(tokens), row.get("auto_detect", True))


def find_layout(layouts: Mapping[str, Layout], name: str) -> Layout:
    """Return the layout called `name`. Raises UsageError that lists the layouts."""
    if name not in layouts:
        raise no_such_name("layout", name, layouts)
    return layouts[name]


def no_such_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error for an unknown name. Its hint has the name that was meant, and all names."""
    listed = f"choose from {', '.join(known)}"
    meant = did_you_mean(name, known)
    hint = f"{meant} Or {listed}" if meant else listed
    return UsageError(f"there is no {kind} called {quoted(repr(name))}", hint)

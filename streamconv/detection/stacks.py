"""Stacks: tensors of a checkpoint that belong together and are stored alike. Pure.

A module is the experts of one layer, or one group of other tensors; a stack is the modules whose
prefixes differ only in numbers and that share a layout.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from streamconv.catalog.layouts import NamedLayout
from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import BadCheckpoint, quoted


@dataclass(frozen=True, slots=True)
class Module:
    """The experts of one layer, or one group of other tensors."""

    prefix: str
    """What the names of its tensors begin with, in hub names: `model.layers.3.mlp.`"""
    tensors: Mapping[str, tuple[TensorInfo, ...]]
    """Of each weight, its tensors in the order of the axes in their names."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Modules that are stored alike."""

    pattern: str
    """Their prefix with * for numbers."""
    row: NamedLayout
    sizes: Mapping[str, int]
    """Size of each axis, those of block scales and packed elements among them."""
    modules: tuple[Module, ...]
    what: str = "experts"
    """What its modules hold, in messages."""

    @property
    def first(self) -> Mapping[str, tuple[TensorInfo, ...]]:
        """The tensors of the first module, weights in the order of the layout's table."""
        tensors = self.modules[0].tensors
        return {w: tensors[w] for w in self.row.layout.templates if w in tensors}


def check_alike(infos: list[TensorInfo], what: str = "experts of a layer") -> None:
    """Refuse tensors that belong together and are not of one shape and dtype."""
    first = infos[0]
    for info in infos:
        if info.shape != first.shape or info.dtype != first.dtype:
            raise BadCheckpoint(
                f"tensor {quoted(info.name)} is {info.dtype} {list(info.shape)}, "
                f"{quoted(first.name)} is {first.dtype} {list(first.shape)}: {what} "
                "have to be alike"
            )


def same_tensors(one: NamedLayout, other: NamedLayout, stack: Stack) -> bool:
    """Whether the two rows store a stack under the same names in the same shapes."""
    return all(
        one.layout.templates[weight].name == other.layout.templates[weight].name
        and one.layout.templates[weight].shape(stack.sizes)
        == other.layout.templates[weight].shape(stack.sizes)
        for weight in stack.first
    )

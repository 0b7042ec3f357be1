"""Stacks: tensors of a checkpoint that belong together and are stored alike.

A module is the experts of one layer, or one group of other tensors. A stack is all modules whose
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
    """Start of its tensors' names, in hub names: `model.layers.3.mlp.`"""
    tensors: Mapping[str, tuple[TensorInfo, ...]]
    """Tensors by weight, in the order of the axes in their names."""

    def __repr__(self) -> str:
        return f"<Module {quoted(self.prefix)}: {', '.join(self.tensors)}>"


@dataclass(frozen=True, slots=True)
class Stack:
    """Modules that are stored alike."""

    pattern: str
    """Prefix of its modules, with * for numbers."""
    row: NamedLayout
    sizes: Mapping[str, int]
    """Size of each axis, including those that count blocks of scales and packed elements."""
    modules: tuple[Module, ...]
    contents: str = "experts"
    """What a module holds, as messages call it."""

    def __repr__(self) -> str:
        layout, count = self.row.layout.name, len(self.modules)
        return f"<Stack {quoted(self.pattern)}: {layout}, {count:,} modules>"

    @property
    def first(self) -> Mapping[str, tuple[TensorInfo, ...]]:
        """The tensors of the first module, by weight in the order of the layout."""
        tensors = self.modules[0].tensors
        return {w: tensors[w] for w in self.row.layout.templates if w in tensors}


def check_alike(infos: list[TensorInfo], subject: str = "experts of a layer") -> None:
    """Raise BadCheckpoint unless all tensors have one shape and dtype.

    `subject` is the name of the tensors in the error.
    """
    first = infos[0]
    for info in infos:
        if info.shape != first.shape or info.dtype != first.dtype:
            raise BadCheckpoint(
                f"tensor {quoted(info.name)} is {info.dtype} {list(info.shape)}, "
                f"{quoted(first.name)} is {first.dtype} {list(first.shape)}: {subject} "
                "have to be alike"
            )


def same_tensors(one: NamedLayout, other: NamedLayout, stack: Stack) -> bool:
    """Return True if both layouts give a stack's tensors the same names and shapes."""
    pairs = [(one.layout.templates.get(w), other.layout.templates.get(w)) for w in stack.first]
    return all(
        left is not None
        and right is not None
        and left.name == right.name
        and left.shape(stack.sizes) == right.shape(stack.sizes)
        for left, right in pairs
    )

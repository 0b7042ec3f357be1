"""The two checkpoints that are compared, and the random sample if only a part of them is."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from streamconv.catalog.templates import Template
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.detect import Detected
from streamconv.detection.stacks import Module, Stack
from streamconv.sources.base import Source
from streamconv.verification.regions import Region, expert_region


@dataclass(frozen=True, slots=True)
class StackModule:
    """The experts of one layer, or another group of tensors, with the stack that they belong to."""

    stack: Stack
    module: Module

    @property
    def tensors(self) -> Mapping[str, tuple[TensorInfo, ...]]:
        """The tensors of each weight."""
        return self.module.tensors

    @property
    def place(self) -> tuple[str, int]:
        """Where its bytes begin: the file, and bytes from its start."""
        return place(next(iter(self.tensors.values()))[0])

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of all axes that are longer than one."""
        return {axis: size for axis, size in self.stack.sizes.items() if size != 1}

    def template(self, weight: str) -> Template:
        """Return the axes of a weight, in its tensors' names and shapes."""
        return self.stack.row.layout.templates[weight]

    def part(self, weight: str) -> tuple[str, str]:
        """Return the matrix that a weight belongs to, and its part of it, such as its scales.

        Both are the same for every shape that the part can have.
        """
        kind = self.stack.row.layout.kinds.get(weight)
        return (kind.matrix(weight), kind.part) if kind else (weight, "")

    def shared_axes(self, weight: str) -> frozenset[str]:
        """Return the axes of experts and projections whose positions share a weight's numbers."""
        return self.stack.row.layout.shared_axes(weight)

    def region(self, weight: str, expert: int) -> Region | None:
        """Return the bytes of one expert of a weight; None if they are not whole bytes."""
        return expert_region(
            self.template(weight),
            self.tensors[weight],
            self.stack.sizes,
            expert,
            self.stack.row.layout.elements_before(weight, self.stack.sizes),
        )


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two checkpoints, opened and detected."""

    source: Source
    found: Detected

    def modules(self) -> dict[str, StackModule]:
        """Return all experts and groups, in the order of their bytes.

        The key is the prefix of a module in hub names, and what the module holds.
        """
        modules = [StackModule(stack, m) for stack in self._stacks() for m in stack.modules]
        modules.sort(key=lambda held: held.place)
        return {f"{held.module.prefix}{held.stack.contents}": held for held in modules}

    def plain(self) -> dict[str, TensorInfo]:
        """Return all other tensors by their hub names, in the order of their bytes."""
        modules = (module for stack in self._stacks() for module in stack.modules)
        rearranged = {i.name for m in modules for infos in m.tensors.values() for i in infos}
        named = ((hub, i) for hub, i in self.found.hub_names.items() if i.name not in rearranged)
        return dict(sorted(named, key=lambda item: place(item[1])))

    def _stacks(self) -> tuple[Stack, ...]:
        return (*self.found.stacks, *self.found.groups)


def place(info: TensorInfo) -> tuple[str, int]:
    """Return where the bytes of a tensor begin: the file, and bytes from its start."""
    return info.file, info.offset


@dataclass(frozen=True, slots=True)
class Sample:
    """A random part of each layer's experts and of the other tensors, at least one of each."""

    share: float
    """Above 0 and at most 1."""
    draw: random.Random

    def of(self, names: list[str]) -> set[str]:
        """Return the chosen names."""
        return set(self.draw.sample(names, self._count(len(names))))

    def experts(self, count: int) -> list[int]:
        """Return the chosen numbers below `count`, in order."""
        return sorted(self.draw.sample(range(count), self._count(count)))

    def _count(self, count: int) -> int:
        return min(max(math.ceil(count * self.share), 1), count)


EVERYTHING = Sample(1.0, random.Random(0))  # noqa: S311 - nothing to guess

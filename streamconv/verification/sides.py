"""The two checkpoints that are compared, and which part of them is looked at."""

import math
import random
from dataclasses import dataclass

from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.detect import Detected
from streamconv.detection.stacks import Module, Stack
from streamconv.sources.base import Source


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two checkpoints, opened and recognised."""

    source: Source
    found: Detected

    def modules(self) -> dict[str, tuple[Stack, Module]]:
        """The experts of each layer, and every group of tensors that are re-laid, by what they are
        called in hub names, in the order of their bytes."""
        modules = [(stack, m) for stack in self._stacks() for m in stack.modules]
        modules.sort(key=lambda pair: _place(pair[1].tensors[next(iter(pair[1].tensors))][0]))
        return {f"{module.prefix}{stack.contents}": (stack, module) for stack, module in modules}

    def plain(self) -> dict[str, TensorInfo]:
        """All other tensors by their hub names, in the order of their bytes."""
        modules = (module for stack in self._stacks() for module in stack.modules)
        relaid = {i.name for m in modules for infos in m.tensors.values() for i in infos}
        named = ((hub, i) for hub, i in self.found.hub_names.items() if i.name not in relaid)
        return dict(sorted(named, key=lambda item: _place(item[1])))

    def _stacks(self) -> tuple[Stack, ...]:
        return (*self.found.stacks, *self.found.groups)


def _place(info: TensorInfo) -> tuple[str, int]:
    return info.file, info.offset


@dataclass(frozen=True, slots=True)
class Sample:
    """Which part of the bytes is looked at: `share` of each layer's experts, of the other tensors,
    at least one of each."""

    share: float
    draw: random.Random

    def of(self, names: list[str]) -> set[str]:
        return set(self.draw.sample(names, self._count(len(names))))

    def experts(self, count: int) -> list[int]:
        return sorted(self.draw.sample(range(count), self._count(count)))

    def _count(self, count: int) -> int:
        return min(max(math.ceil(count * self.share), 1), count)


EVERYTHING = Sample(1.0, random.Random(0))  # noqa: S311 - nothing to guess

"""The modules of a checkpoint that a conversion gives another layout."""

from collections.abc import Iterator
from dataclasses import dataclass

from streamconv.detection.detect import Detected
from streamconv.detection.layer_filter import LayerFilter
from streamconv.detection.stacks import Module
from streamconv.planning.stack_outputs import StackOutputs
from streamconv.planning.target import Target


@dataclass(frozen=True, slots=True)
class ConvertedModule:
    """A module that gets another layout."""

    module: Module
    stack: StackOutputs


def converted_modules(
    source: Detected, target: Target, layer_filter: LayerFilter
) -> Iterator[ConvertedModule]:
    """Yield the modules of stacks and groups that get another layout."""
    for stack in (*source.stacks, *source.groups):
        row = target.layout_for(stack)
        if row != stack.row:
            outputs = StackOutputs(stack, row)
            for module in stack.modules:
                if layer_filter.keeps(module.prefix):
                    yield ConvertedModule(module, outputs)


def converted_names(source: Detected, target: Target) -> set[str]:
    """Return the names of all tensors in stacks and groups that get another layout."""
    return {
        info.name
        for stack in (*source.stacks, *source.groups)
        if target.layout_for(stack) != stack.row
        for module in stack.modules
        for infos in module.tensors.values()
        for info in infos
    }

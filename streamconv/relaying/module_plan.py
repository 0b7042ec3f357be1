"""The plan for one module, with the names of tensors below it.

It is the same for every module whose prefix differs only in numbers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from streamconv.catalog.families import Form
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.stacks import Module, Stack
from streamconv.lazy.arrays import array_shape
from streamconv.planning.build import Outputs
from streamconv.planning.rearrangement import copy_of
from streamconv.planning.stack_outputs import InputIndex, OutputTensor
from streamconv.relaying.moves import Moves, plan_moves


@dataclass(frozen=True, slots=True)
class PlannedOutput:
    """An output tensor of a module."""

    suffix: str
    """Its name below the module, in hub names."""
    inputs: tuple[str, ...]
    """Names of its inputs below the module, in the order of the plan."""
    moves: Moves


@dataclass(frozen=True, slots=True)
class ModulePlan:
    """The output tensors of a module, and the outputs that each input is a part of."""

    outputs: tuple[PlannedOutput, ...]
    uses: Mapping[str, Sequence[tuple[int, int]]]
    """By the name of an input below the module: the outputs that it is a part of, by index, and its
    number among the inputs of each."""
    names: Form
    """The form whose names the outputs have."""


def plan_module(outputs: Outputs, stack: Stack, module: Module) -> ModulePlan:
    """Return the plan for one module of a planned conversion.

    Args:
        outputs: The conversion.
        stack: A stack or group of its source.
        module: A module of that stack.
    """
    hub_names = {info.name: hub_name for hub_name, info in outputs.source.hub_names.items()}

    def suffix(name: str) -> str:
        return hub_names[name].removeprefix(module.prefix)

    slots = {
        (weight, index): info
        for weight, infos in module.tensors.items()
        for index, info in enumerate(infos)
    }
    converted = (each for each in outputs.steps.converted if each.module is module)
    found = next(converted, None)
    made = found.stack.outputs if found else _copies(slots, suffix)
    planned: list[PlannedOutput] = []
    uses: dict[str, list[tuple[int, int]]] = {}
    for output in made:
        inputs = [slots[slot] for slot in output.inputs]
        names = tuple(suffix(info.name) for info in inputs)
        for number, name in enumerate(names):
            uses.setdefault(name, []).append((len(planned), number))
        shape = array_shape(inputs[0].dtype, output.shape)
        planned.append(
            PlannedOutput(
                output.suffix, names, plan_moves(output.sections, shape, inputs[0].nbytes)
            )
        )
    return ModulePlan(tuple(planned), uses, outputs.target.names)


def _copies(
    slots: Mapping[InputIndex, TensorInfo], suffix: Callable[[str], str]
) -> Iterator[OutputTensor]:
    """Yield an output for each tensor of a module that stays as it is."""
    for slot, info in {info.name: (slot, info) for slot, info in slots.items()}.values():
        how = (copy_of(info.nbytes),)
        yield OutputTensor(suffix(info.name), info.shape, how, (slot,), None)

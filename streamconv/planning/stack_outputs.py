"""Plan the conversion of a stack to another layout, once for all of its modules."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from streamconv.catalog.layouts import NamedLayout
from streamconv.catalog.templates import EXPERT, Template
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.stacks import Module, Stack
from streamconv.errors import PlanRefused, UsageError, quoted
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.planning.plan_rearrangement import plan_rearrangement
from streamconv.planning.rearrangement import Rearrangement
from streamconv.planning.segments import segments_of

InputIndex = tuple[str, int]
"""A weight of a stack, and the index of a tensor among those of that weight."""
MAX_TENSORS = 200_000
"""Tensors that one weight of a module becomes. A header of 200 bytes can tell of billions."""


@dataclass(frozen=True)
class OutputTensor:
    """One output tensor of every module of a stack."""

    suffix: str
    """Its name below the module's prefix."""
    shape: tuple[int, ...]
    sections: tuple[Rearrangement, ...]
    inputs: tuple[InputIndex, ...]
    expert: int | None
    """Number of the expert, if it holds a single one."""

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return sum(how.units * how.unit_bytes for how in self.sections)

    @cached_property
    def buffer_bytes(self) -> int:
        """Bytes of input that are in memory at once."""
        return max(how.buffer_bytes for how in self.sections)

    def concat(self, other: "OutputTensor") -> "OutputTensor":
        """Return the tensor in which the sections of `other` follow on the first dimension."""
        return replace(
            self,
            shape=(self.shape[0] + other.shape[0], *self.shape[1:]),
            sections=self.sections + other.sections,
            inputs=self.inputs + other.inputs,
        )


class StackOutputs:
    """The output tensors of every module of a stack."""

    def __init__(self, stack: Stack, row: NamedLayout) -> None:
        """Plan the conversion of a stack.

        Args:
            stack: The stack as it is stored.
            row: Layout and naming that it gets.

        Raises:
            PlanRefused: Elements of less than a byte would have to move.
        """
        self._stack = stack
        self._row = row
        self._places = row.layout.places(stack.first, stack.row.layout)
        outputs: dict[str, OutputTensor] = {}
        for weight, infos in stack.first.items():
            for output in self._outputs_of(weight, infos):
                first = outputs.get(output.suffix)
                outputs[output.suffix] = first.concat(output) if first else output
        self.outputs = tuple(outputs.values())

    def dtype(self, module: Module, output: OutputTensor) -> str:
        """Return the dtype of an output tensor of a module."""
        weight, index = output.inputs[0]
        return module.tensors[weight][index].dtype

    def inputs(self, module: Module, output: OutputTensor) -> tuple[TensorInfo, ...]:
        """Return the inputs of an output tensor of a module, section by section."""
        return tuple(module.tensors[weight][index] for weight, index in output.inputs)

    def segments(self, output: OutputTensor, axis: int) -> tuple[int, ...]:
        """Return the lengths of the segments of an output's dimension; see `segments_of`."""
        weights = dict.fromkeys(self._places[weight] for weight, _ in output.inputs)
        return segments_of(self._row, weights, self._stack.sizes, axis)

    @cached_property
    def copied_bytes(self) -> int:
        """Bytes of a module's outputs that repeat numbers which experts or projections share."""
        layout, sizes = self._stack.row.layout, self._stack.sizes
        count = 0
        for weight, place in self._places.items():
            own, other = layout.templates[weight], self._row.layout.templates[place]
            added = {*other.name_axes, *other.axes} - {*own.name_axes, *own.axes}
            copies = math.prod(sizes[axis] for axis in added & layout.shared_axes(weight))
            count += (copies - 1) * sum(info.nbytes for info in self._stack.first[weight])
        return count

    def unused(self, module: Module) -> Iterator[TensorInfo]:
        """Yield the tensors of a module that no output takes."""
        for weight, infos in module.tensors.items():
            used = self._used.get(weight, frozenset())
            yield from (info for index, info in enumerate(infos) if index not in used)

    @cached_property
    def _used(self) -> Mapping[str, frozenset[int]]:
        """By weight, the indices of the tensors that an output takes."""
        used: dict[str, set[int]] = {}
        for output in self.outputs:
            for weight, index in output.inputs:
                used.setdefault(weight, set()).add(index)
        return {weight: frozenset(indices) for weight, indices in used.items()}

    def _outputs_of(self, weight: str, infos: tuple[TensorInfo, ...]) -> Iterator[OutputTensor]:
        """Yield the output tensors of a weight; of one that weights share, only its section."""
        sizes = self._stack.sizes
        layout = self._stack.row.layout
        source = layout.templates[weight]
        target = self._row.layout.templates[self._places[weight]]
        elements_before = layout.elements_before(weight, sizes)
        shared = layout.shared_axes(weight)
        shape = target.shape(sizes)
        count = math.prod(sizes[axis] for axis in target.name_axes)
        if count > MAX_TENSORS:
            raise PlanRefused(
                f"cannot split {quoted(infos[0].name)}: it would become {count:,} tensors, and no "
                f"more than {MAX_TENSORS:,} are made of one weight of a module",
                "choose a layout that keeps the experts of a layer in one tensor",
            )
        for position in itertools.product(*(range(sizes[axis]) for axis in target.name_axes)):
            fixed = dict(zip(target.name_axes, position, strict=True))
            try:
                bits = DTYPE_BITS[infos[0].dtype]
                how = plan_rearrangement(
                    source, target, sizes, fixed, bits, elements_before, shared
                )
            except UsageError as error:
                raise PlanRefused(f"{quoted(infos[0].name)}: {error.message}") from None
            suffix = self._row.name(target, position)
            inputs = tuple((weight, index) for index in self._input_indices(source, fixed))
            yield OutputTensor(suffix, shape, (how,), inputs, fixed.get(EXPERT))

    def _input_indices(self, source: Template, fixed: dict[str, int]) -> Iterator[int]:
        """Yield the indices of a weight's tensors whose names have the fixed positions."""
        axes = source.name_axes
        spans = (range(self._stack.sizes[axis]) for axis in axes)
        for index, position in enumerate(itertools.product(*spans)):
            if all(fixed.get(axis, at) == at for axis, at in zip(axes, position, strict=True)):
                yield index

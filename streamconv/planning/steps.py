"""Plan the steps of a conversion: one for each output tensor.

A step has a name, but no place yet. The file format orders the steps and gives them offsets.
"""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from streamconv.catalog.layouts import NamedLayout
from streamconv.catalog.templates import EXPERT, Template
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.detect import Detected
from streamconv.detection.layer_filter import LayerFilter
from streamconv.detection.stacks import Module, Stack
from streamconv.errors import PlanRefused, UsageError, quoted
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.planning.rearrangement import Rearrangement, copy_of, plan_rearrangement
from streamconv.planning.target import Target


@dataclass(frozen=True, slots=True)
class Step:
    """One output tensor, and how it is made."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the shard's data."""
    inputs: tuple[TensorInfo, ...]
    """The inputs of the first section, then those of the next."""
    sections: tuple[Rearrangement, ...]
    """The rearrangement of each section, in the order of the output's bytes."""
    module: str = ""
    """Prefix of its experts or group in hub names; empty if it belongs to none and is copied."""
    expert: int | None = None
    """Number of the expert, if it holds a single one."""

    @property
    def nbytes(self) -> int:
        return sum(how.units * how.unit_bytes for how in self.sections)

    @property
    def is_copy(self) -> bool:
        """True if all bytes keep their order."""
        return all(how.is_copy for how in self.sections)

    @property
    def buffer_bytes(self) -> int:
        """Bytes of input that are in memory at once."""
        return max(how.buffer_bytes for how in self.sections)

    @property
    def concurrent_inputs(self) -> int:
        """Number of inputs that are read at once."""
        return max(how.inputs for how in self.sections)

    def inputs_of(self, section: int) -> tuple[TensorInfo, ...]:
        """Return the inputs of one section."""
        first = sum(how.total_inputs for how in self.sections[:section])
        return self.inputs[first : first + self.sections[section].total_inputs]


def make_steps(source: Detected, target: Target, layers: range | None) -> list[Step]:
    """Return a step for every output tensor, all at offset 0.

    Args:
        source: The checkpoint to convert.
        target: The layouts and names that it gets.
        layers: Numbers of the layers to keep, along with everything in no layer; None for all.

    Raises:
        PlanRefused: No layer is left, or elements of less than a byte would have to move.
    """
    layer_filter = LayerFilter.of(source.stacks, layers)
    if layers and layer_filter.keeps_no_layer(source.hub_names):
        raise PlanRefused(f"there is nothing in the layers {layers.start}:{layers.stop}")
    return list(_steps(source, target, layer_filter))


def _steps(source: Detected, target: Target, layer_filter: LayerFilter) -> Iterator[Step]:
    """Yield the steps that convert stacks and groups, then a copy of every other tensor."""
    converted: set[str] = set()
    for stack in (*source.stacks, *source.groups):
        row = target.layout_for(stack)
        if row == stack.row:
            continue
        stack_steps = _StackSteps(stack, row)
        for module in stack.modules:
            converted.update(info.name for infos in module.tensors.values() for info in infos)
            if layer_filter.keeps(module.prefix):
                for step in stack_steps.of(module):
                    yield replace(step, name=target.names.apply(step.name))
    for hub_name, info in source.hub_names.items():
        if info.name not in converted and layer_filter.keeps(hub_name):
            name = target.names.apply(hub_name)
            yield Step(name, info.dtype, info.shape, 0, (info,), _copied(info.nbytes))


@functools.cache
def _copied(nbytes: int) -> tuple[Rearrangement, ...]:
    return (copy_of(nbytes),)


@dataclass(frozen=True, slots=True)
class _OutputTensor:
    """One output tensor of every module of a stack."""

    suffix: str
    """Its name below the module's prefix."""
    shape: tuple[int, ...]
    sections: tuple[Rearrangement, ...]
    inputs: tuple[tuple[str, int], ...]
    """For each input, its weight and its index among the tensors of that weight."""
    expert: int | None

    def concat(self, other: "_OutputTensor") -> "_OutputTensor":
        """Return the tensor in which the sections of `other` follow on the first dimension."""
        return replace(
            self,
            shape=(self.shape[0] + other.shape[0], *self.shape[1:]),
            sections=self.sections + other.sections,
            inputs=self.inputs + other.inputs,
        )


class _StackSteps:
    """The conversion of one stack to a layout, planned once for all of its modules."""

    def __init__(self, stack: Stack, row: NamedLayout) -> None:
        self._stack = stack
        self._row = row
        self._outputs: dict[str, _OutputTensor] = {}
        for weight, infos in stack.first.items():
            for output in self._outputs_of(weight, infos):
                first = self._outputs.get(output.suffix)
                self._outputs[output.suffix] = first.concat(output) if first else output

    def of(self, module: Module) -> Iterator[Step]:
        """Yield the steps of one module, under hub names."""
        shared: dict[tuple[tuple[str, int], ...], tuple[TensorInfo, ...]] = {}
        for output in self._outputs.values():
            inputs = shared.get(output.inputs)
            if inputs is None:
                inputs = tuple(module.tensors[weight][index] for weight, index in output.inputs)
                shared[output.inputs] = inputs
            yield Step(
                name=module.prefix + output.suffix,
                dtype=inputs[0].dtype,
                shape=output.shape,
                offset=0,
                inputs=inputs,
                sections=output.sections,
                module=module.prefix,
                expert=output.expert,
            )

    def _outputs_of(self, weight: str, infos: tuple[TensorInfo, ...]) -> Iterator[_OutputTensor]:
        """Yield the output tensors of a weight; of one that several weights share, its section."""
        sizes = self._stack.sizes
        layout = self._stack.row.layout
        source, target = layout.templates[weight], self._row.layout.templates[weight]
        elements_before = layout.elements_before(weight, sizes)
        shape = target.shape(sizes)
        for position in itertools.product(*(range(sizes[axis]) for axis in target.name_axes)):
            fixed = dict(zip(target.name_axes, position, strict=True))
            try:
                bits = DTYPE_BITS[infos[0].dtype]
                how = plan_rearrangement(source, target, sizes, fixed, bits, elements_before)
            except UsageError as error:
                raise PlanRefused(f"{quoted(infos[0].name)}: {error.message}") from None
            suffix = self._row.name(target, position)
            inputs = tuple((weight, index) for index in self._input_indices(source, fixed))
            yield _OutputTensor(suffix, shape, (how,), inputs, fixed.get(EXPERT))

    def _input_indices(self, source: Template, fixed: dict[str, int]) -> Iterator[int]:
        """Yield the indices of a weight's tensors whose names have the fixed positions."""
        axes = source.name_axes
        spans = (range(self._stack.sizes[axis]) for axis in axes)
        for index, position in enumerate(itertools.product(*spans)):
            if all(fixed.get(axis, at) == at for axis, at in zip(axes, position, strict=True)):
                yield index

"""The steps of a conversion: what makes each output tensor, before they are put in order. Pure."""

import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from streamconv.catalog.layouts import NamedLayout
from streamconv.catalog.templates import EXPERT
from streamconv.checkpoint.tensor_names import layer_of
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.detect import Detected
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
    sections: tuple[Rearrangement, ...]
    """How it is made, in the order of its bytes: of the inputs in their order, each takes its own.
    One, but where parts of a group stand in one tensor."""
    module: str = ""
    """Prefix of the experts or the group that it belongs to, in hub names; empty where it belongs
    to none and is copied."""
    expert: int | None = None
    """Number of the one expert that it holds, where it holds one."""

    @property
    def nbytes(self) -> int:
        return sum(how.units * how.unit_bytes for how in self.sections)

    @property
    def is_copy(self) -> bool:
        """Whether all bytes keep their order."""
        return all(how.is_copy for how in self.sections)

    @property
    def buffer_bytes(self) -> int:
        """Bytes of input that have to be in memory at once."""
        return max(how.buffer_bytes for how in self.sections)

    @property
    def concurrent_inputs(self) -> int:
        """Inputs that are read at once."""
        return max(how.inputs for how in self.sections)

    def inputs_of(self, section: int) -> tuple[TensorInfo, ...]:
        """The inputs that a section takes."""
        first = sum(how.takes for how in self.sections[:section])
        return self.inputs[first : first + self.sections[section].takes]


def make_steps(source: Detected, target: Target, layers: range | None) -> list[Step]:
    """A step for every tensor of the output, at no offset yet.

    `layers` keeps only these layers and what belongs to no layer of an expert stack. Raises
    PlanRefused where there is nothing in them, or elements of less than a byte would be moved.
    """
    wanted = LayerFilter(source.stacks, layers)
    if layers and wanted.nothing(source.hub_names):
        raise PlanRefused(f"there is nothing in the layers {layers.start}:{layers.stop}")
    return list(_steps(source, target, wanted))


def _steps(source: Detected, target: Target, wanted: "LayerFilter") -> Iterator[Step]:
    moved: set[str] = set()
    for stack in (*source.stacks, *source.groups):
        row = target.layout_for(stack)
        if row == stack.row:
            continue
        for module in stack.modules:
            moved.update(info.name for infos in module.tensors.values() for info in infos)
        relaid = _StackSteps(stack, row)
        for module in filter(wanted.prefix, stack.modules):
            for step in relaid.steps(module):
                yield replace(step, name=target.names.apply(step.name))
    for hub_name, info in source.hub_names.items():
        if info.name not in moved and wanted(hub_name):
            name = target.names.apply(hub_name)
            yield Step(name, info.dtype, info.shape, 0, (info,), _copied(info.nbytes))


@functools.cache
def _copied(nbytes: int) -> tuple[Rearrangement, ...]:
    return (copy_of(nbytes),)


class LayerFilter:
    """Whether a tensor belongs to the wanted layers, or to no layer of an expert stack."""

    def __init__(self, stacks: Iterable[Stack], layers: range | None) -> None:
        self._layers = layers
        places = (layer_of(module.prefix) for stack in stacks for module in stack.modules)
        self._paths = {place[0] for place in places if place}

    def __call__(self, hub_name: str) -> bool:
        place = self._place(hub_name) if self._layers is not None else None
        return place is None or place in (self._layers or ())

    def nothing(self, hub_names: Iterable[str]) -> bool:
        """Whether layers are wanted of which there is none, in a checkpoint that has layers."""
        places = map(self._place, hub_names)
        if self._layers is None or not self._paths:
            return False
        return not any(place is not None and place in self._layers for place in places)

    def _place(self, hub_name: str) -> int | None:
        """The number of the layer that a tensor belongs to, among those with experts."""
        place = layer_of(hub_name)
        return place[1] if place and place[0] in self._paths else None

    def prefix(self, module: Module) -> bool:
        return self(module.prefix)


@dataclass(frozen=True, slots=True)
class _OutputTensor:
    """An output tensor of every module of a stack."""

    suffix: str
    """Its name below the module's prefix."""
    shape: tuple[int, ...]
    sections: tuple[Rearrangement, ...]
    chosen: tuple[tuple[str, int], ...]
    """Its inputs: a weight, and the number of a tensor of it."""
    expert: int | None

    def concat(self, other: "_OutputTensor") -> "_OutputTensor":
        """Both in one tensor, one behind the other."""
        shape = (self.shape[0] + other.shape[0], *self.shape[1:])
        sections, chosen = self.sections + other.sections, self.chosen + other.chosen
        return replace(self, shape=shape, sections=sections, chosen=chosen)


class _StackSteps:
    """One stack on its way from its layout to another: the same for each of its modules."""

    def __init__(self, stack: Stack, row: NamedLayout) -> None:
        self._stack = stack
        self._row = row
        self._made: dict[str, _OutputTensor] = {}
        for weight, infos in stack.first.items():
            for made in self._weight(weight, infos):
                first = self._made.get(made.suffix)
                self._made[made.suffix] = first.concat(made) if first else made

    def steps(self, module: Module) -> Iterator[Step]:
        for made in self._made.values():
            inputs = tuple(module.tensors[weight][k] for weight, k in made.chosen)
            yield Step(
                module.prefix + made.suffix,
                inputs[0].dtype,
                made.shape,
                0,
                inputs,
                made.sections,
                module.prefix,
                made.expert,
            )

    def _weight(self, weight: str, infos: tuple[TensorInfo, ...]) -> Iterator[_OutputTensor]:
        """Each output tensor of a weight, or what it has of one."""
        sizes = self._stack.sizes
        layout = self._stack.row.layout
        source, target = layout.templates[weight], self._row.layout.templates[weight]
        before = layout.before(weight, sizes)
        spans = [range(sizes[axis]) for axis in target.name_axes]
        shape = target.shape(sizes)
        for position in itertools.product(*spans):
            fixed = dict(zip(target.name_axes, position, strict=True))
            name = self._row.name(target, position)
            try:
                bits = DTYPE_BITS[infos[0].dtype]
                how = plan_rearrangement(source, target, sizes, fixed, bits, before)
            except UsageError as error:
                raise PlanRefused(f"{quoted(infos[0].name)}: {error.message}") from None
            chosen = tuple(
                (weight, number)
                for number, at in enumerate(
                    itertools.product(*(range(sizes[axis]) for axis in source.name_axes))
                )
                if all(fixed.get(a, k) == k for a, k in zip(source.name_axes, at, strict=True))
            )
            yield _OutputTensor(name, shape, (how,), chosen, fixed.get(EXPERT))

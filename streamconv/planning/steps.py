"""The steps of a conversion: one for each output tensor, made when it is accessed.

A step follows from its stack, its module and its number, so a plan holds only a few bytes for each.
Here, all steps have the offset 0: the file format puts them into shards and gives them offsets.
"""

import functools
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from streamconv.catalog.families import SAME
from streamconv.checkpoint.tensor_names import find_naturally, sort_naturally
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.detect import Detected
from streamconv.detection.layer_filter import LayerFilter
from streamconv.errors import PlanRefused
from streamconv.planning.converted_modules import (
    ConvertedModule,
    converted_modules,
    converted_names,
)
from streamconv.planning.rearrangement import Rearrangement, copy_of
from streamconv.planning.segments import stored_segments
from streamconv.planning.stack_outputs import OutputTensor
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
    """Prefix of the converted module that it is of, in hub names; empty if it is only copied."""
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
        if len(self.sections) == 1:
            return self.inputs
        first = sum(how.total_inputs for how in self.sections[:section])
        return self.inputs[first : first + self.sections[section].total_inputs]


class Steps(Sequence[Step]):
    """Every step of a conversion, in natural order of names, all at offset 0."""

    def __init__(self, source: Detected, target: Target, layer_filter: LayerFilter) -> None:
        """Plan the conversion of each stack; see `make_steps`."""
        self._source = source
        self._names = target.names
        self._is_same = target.asked == SAME
        self._hub_names = source.hub_names
        self._has_encodings = any(map(_is_encoded, source.hub_names.values()))
        self.converted = tuple(converted_modules(source, target, layer_filter))
        """The modules that get another layout."""
        taken = converted_names(source, target)
        self.copied = tuple(
            hub_name
            for hub_name, info in layer_filter.kept(source.hub_names).items()
            if info.name not in taken
        )
        """Hub names of the tensors that stay as they are."""
        self._firsts = array("q")
        """Number of the first step of each module, in the order of `converted`."""
        count = 0
        for each in self.converted:
            self._firsts.append(count)
            count += len(each.stack.outputs)
        self._copies = count
        count += len(self.copied)
        self._order = array("q", range(count))
        self._order = array("q", sort_naturally(range(count), self.name))

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, number: int) -> Step: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[Step, ...]: ...
    def __getitem__(self, number: int | slice) -> Step | tuple[Step, ...]:
        if isinstance(number, slice):
            return tuple(self.step(each) for each in range(*number.indices(len(self))))
        return self.step(range(len(self))[number])

    def step(self, number: int, offset: int = 0) -> Step:
        """Return the step with this number, at an offset in its shard's data."""
        place = self._order[number]
        name = self.name(number)
        if place >= self._copies:
            info = self._copied_info(place)
            return Step(name, info.dtype, info.shape, offset, (info,), _copied(info.nbytes))
        converted, output = self._output(place)
        inputs = converted.stack.inputs(converted.module, output)
        return Step(
            name,
            inputs[0].dtype,
            output.shape,
            offset,
            inputs,
            output.sections,
            converted.module.prefix,
            output.expert,
        )

    def find(self, name: str) -> int:
        """Return the number of the step that makes the tensor `name`. Raises KeyError."""
        return find_naturally(range(len(self)), self.name, name)

    def name(self, number: int) -> str:
        """Return the name of the output tensor with this number."""
        place = self._order[number]
        if place >= self._copies:
            hub_name = self.copied[place - self._copies]
            if self._is_same:
                return self._hub_names[hub_name].name
            return self._names.apply(hub_name)
        converted, output = self._output(place)
        return self._names.apply(converted.module.prefix + output.suffix)

    def nbytes(self, number: int) -> int:
        """Return the bytes of the output tensor with this number."""
        place = self._order[number]
        if place >= self._copies:
            return self._copied_info(place).nbytes
        return self._output(place)[1].nbytes

    def dtype(self, number: int) -> str:
        """Return the dtype of the output tensor with this number."""
        place = self._order[number]
        if place >= self._copies:
            return self._copied_info(place).dtype
        converted, output = self._output(place)
        return converted.stack.dtype(converted.module, output)

    def is_encoded(self, number: int) -> bool:
        """Return True if an output tensor is made of a weight that is quantized as it is read."""
        if not self._has_encodings:
            return False
        place = self._order[number]
        if place >= self._copies:
            return _is_encoded(self._copied_info(place))
        converted, output = self._output(place)
        return _is_encoded(converted.stack.inputs(converted.module, output)[0])

    def buffer_bytes(self, number: int) -> int:
        """Return the bytes of input that are in memory at once to make an output tensor."""
        place = self._order[number]
        return 0 if place >= self._copies else self._output(place)[1].buffer_bytes

    def segments(self, number: int, axis: int) -> tuple[int, ...]:
        """Return the lengths of the segments of an output tensor's dimension, in order.

        In a tensor-parallel run, each segment is divided among all ranks.
        """
        place = self._order[number]
        if place < self._copies:
            converted, output = self._output(place)
            return converted.stack.segments(output, axis)
        info = self._copied_info(place)
        return stored_segments(self._source, info.name, axis) or (info.shape[axis],)

    def inputs(self) -> Iterator[TensorInfo]:
        """Yield every tensor that a step takes, once."""
        for each in self.converted:
            tensors = each.module.tensors.values()
            yield from {info.name: info for infos in tensors for info in infos}.values()
        yield from (self._hub_names[hub_name] for hub_name in self.copied)

    def count_inputs(self) -> int:
        """Return the number of tensors that `inputs` yields, in less time than that takes."""
        found = (each.module.tensors.values() for each in self.converted)
        counts = (len({info.name for infos in tensors for info in infos}) for tensors in found)
        return sum(counts) + len(self.copied)

    def _output(self, place: int) -> tuple[ConvertedModule, OutputTensor]:
        index = bisect_right(self._firsts, place) - 1
        converted = self.converted[index]
        return converted, converted.stack.outputs[place - self._firsts[index]]

    def _copied_info(self, place: int) -> TensorInfo:
        return self._hub_names[self.copied[place - self._copies]]


def make_steps(source: Detected, target: Target, layers: range | None) -> Steps:
    """Return a step for every output tensor, all at offset 0.

    Args:
        source: The checkpoint to convert.
        target: The layouts and names that it gets.
        layers: Numbers of the layers to keep, along with everything in no layer; None for all.

    Raises:
        PlanRefused: No layer is left, or elements of less than a byte would have to move.
    """
    if layers and not (source.layer_lists or source.stacks or source.refusals):
        raise PlanRefused(
            f"cannot take the layers {layers.start}:{layers.stop}: the names of the tensors and "
            "config.json do not tell which of them are layers of the model",
            "leave out --layers",
        )
    layer_filter = LayerFilter.of(source.layer_lists, layers)
    if layers and layer_filter.keeps_no_layer(source.hub_names):
        raise PlanRefused(
            f"cannot take the layers {layers.start}:{layers.stop}: there is nothing in them",
            "name layers that are there: `streamconv inspect` shows how many there are",
        )
    return Steps(source, target, layer_filter)


def _is_encoded(info: TensorInfo) -> bool:
    return info.cast is not None and info.cast.encoding is not None


@functools.cache
def _copied(nbytes: int) -> tuple[Rearrangement, ...]:
    return (copy_of(nbytes),)

"""A rearrangement: how a section of an output tensor is made of its inputs."""

import functools
import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rearrangement:
    """How a section of an output tensor is made of its inputs, unit by unit.

    A unit reads `input_bytes` of each of `inputs` tensors, concatenated in memory. Its output is a
    strided array over that memory, in C order. Sizes are bytes, except `start`, `shape` and
    `strides`: they count elements of `itemsize` bytes.
    """

    units: int
    inputs: int
    """Number of tensors that a unit reads."""
    advance: bool
    """True if each unit has `inputs` tensors of its own; False if all read the same ones."""
    base: int
    """Offset in each input where unit 0 reads."""
    stride: int
    """Difference of that offset from unit to unit."""
    input_bytes: int
    """Bytes that a unit reads of each input."""
    start: int
    """First element of the strided array."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int

    @property
    def is_copy(self) -> bool:
        """True if the bytes keep their order, so that no processor has to move them."""
        return self.start == 0 and (not self.shape or self.strides == (1,))

    @property
    def total_inputs(self) -> int:
        """Number of tensors that all units together read."""
        return self.inputs * self.units if self.advance else self.inputs

    @property
    def unit_bytes(self) -> int:
        """Bytes of output in a unit."""
        return math.prod(self.shape) * self.itemsize

    @property
    def buffer_bytes(self) -> int:
        """Bytes of input that are in memory at once."""
        return 0 if self.is_copy else self.inputs * self.input_bytes

    def reads(self, unit: int) -> list[tuple[int, int]]:
        """Return the reads of a unit: for each, the index of the input and the byte offset."""
        first = unit * self.inputs if self.advance else 0
        offset = self.base + unit * self.stride
        return [(first + k, offset) for k in range(self.inputs)]


@functools.cache
def copy_of(nbytes: int) -> Rearrangement:
    """Return the rearrangement of a tensor of `nbytes` that stays as it is."""
    return Rearrangement(
        units=1,
        inputs=1,
        advance=False,
        base=0,
        stride=0,
        input_bytes=nbytes,
        start=0,
        shape=(nbytes,),
        strides=(1,),
        itemsize=1,
    )

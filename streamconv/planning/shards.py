"""The interface of file formats, which cut an output into files: the shards.

A shard consists of parts, in the order of the file: bytes of the output tensors, and framing bytes
that belong to the format, such as a header. A format cuts steps into shards and says which parts
each has. Code that runs a plan does not know the format.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Reversible, Sequence
from dataclasses import dataclass
from typing import Protocol, overload

from streamconv.checkpoint.manifest import Manifest
from streamconv.checkpoint.types import TensorInfo
from streamconv.planning.rearrangement import Rearrangement
from streamconv.planning.steps import Step, Steps

COPY_BYTES = 8 * 2**20
"""Bytes at which a copy is cut, so that a piece can end there. Other units stay whole."""


@dataclass(frozen=True, slots=True)
class FramingBytes:
    """Bytes of the file format itself, such as a header."""

    number: int
    """Number that the format builds them by."""
    nbytes: int


@dataclass(frozen=True, slots=True)
class StepBytes:
    """Bytes `begin` to `end` of one unit of a step."""

    steps: Sequence[Step]
    """The steps of the shard."""
    index: int
    """Index of the step among them."""
    section: int
    """Index of the section that the unit belongs to."""
    unit: int
    """Index of the unit in its section."""
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.begin

    @property
    def step(self) -> Step:
        """The step."""
        return self.steps[self.index]

    @property
    def how(self) -> Rearrangement:
        """The rearrangement that makes its section."""
        return self.step.sections[self.section]

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The inputs of its section."""
        return self.step.inputs_of(self.section)


ShardPart = FramingBytes | StepBytes


@dataclass(frozen=True)
class Shard:
    """One output file."""

    name: str
    """Path below the output folder, with slashes."""
    steps: Sequence[Step]
    """In the order of their bytes."""
    nbytes: int
    """Size of the file."""
    data_bytes: int
    """Bytes of the tensors in it."""


class ShardFormat(Protocol):
    """A file format that tensors are written in."""

    @property
    def name(self) -> str:
        """Name of the format in `--format`."""

    @property
    def skip_reason(self) -> str:
        """Reason why other files of a checkpoint are not copied; empty if they are."""

    @property
    def facts(self) -> tuple[str, ...]:
        """Settings that distinguish outputs of this format, in words."""

    def shards(self, steps: Steps, max_shard_bytes: int) -> Iterator[Shard]:
        """Put steps, in natural order of names, into files, each at its offset.

        A file has at most `max_shard_bytes` of data; a tensor that is larger gets its own.
        """

    def count_chunks(self, steps: Steps) -> int:
        """Return the number of chunks that tensors are stored in; 0 if the format has none."""

    def parts(self, shard: Shard) -> Iterator[ShardPart]:
        """Yield the parts of a shard in order, without gaps."""

    def framing_bytes(self, shard: Shard, number: int) -> Iterator[bytes]:
        """Yield the framing bytes of a shard that have this number, in order."""

    def closing_files(
        self, shards: Sequence[Shard], manifest: Callable[[Mapping[str, bytes]], Manifest]
    ) -> Iterator[tuple[str, bytes]]:
        """Yield the name and content of each file that is written last, in order.

        Args:
            shards: All shards of the output.
            manifest: Builds the manifest. It takes the content of files that the manifest has to
                list, by name.
        """


class PlacedSteps(Sequence[Step]):
    """The steps of a shard, each with its offset. They are made when they are accessed."""

    def __init__(self, steps: Steps, numbers: Iterable[int]) -> None:
        """Concatenate the bytes of steps.

        Args:
            steps: All steps of the conversion.
            numbers: The numbers of those in the shard, in the order of their bytes.
        """
        self._steps = steps
        self._numbers = array("q", numbers)
        self._offsets = array("q")
        self._last: tuple[int, Step] | None = None
        self.nbytes = 0
        """Bytes of all of them."""
        for number in self._numbers:
            self._offsets.append(self.nbytes)
            self.nbytes += steps.nbytes(number)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Step, ...]: ...
    def __getitem__(self, index: int | slice) -> Step | tuple[Step, ...]:
        if isinstance(index, slice):
            return tuple(self[each] for each in range(*index.indices(len(self))))
        last = self._last
        if last is not None and last[0] == index:
            return last[1]
        step = self._steps.step(self._numbers[index], self._offsets[index])
        self._last = index, step
        return step


class PieceParts(Reversible[ShardPart]):
    """Adjacent parts of a shard, in few bytes: a piece of tiny units can have a million of them.

    Units of a section that follow each other, whole or cut alike, are one row.
    """

    _FIELDS = 6
    _FRAMING = -1

    def __init__(self, steps: Sequence[Step]) -> None:
        """Make an empty collection. `steps` are all steps of the shard."""
        self._steps = steps
        self._rows = array("q")
        """Of each row: index, section, first unit, begin and end in each unit, and units."""
        self._count = 0

    def append(self, part: ShardPart) -> None:
        """Add the part that follows."""
        self._count += 1
        if isinstance(part, FramingBytes):
            self._rows.extend((self._FRAMING, part.number, 0, 0, part.nbytes, 1))
            return
        if self._rows:
            *last, count = self._rows[-self._FIELDS :]
            last[2] += count
            if last == [part.index, part.section, part.unit, part.begin, part.end]:
                self._rows[-1] += 1
                return
        self._rows.extend((part.index, part.section, part.unit, part.begin, part.end, 1))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[ShardPart]:
        fields = [iter(self._rows)] * self._FIELDS
        for which, number, first, begin, end, count in zip(*fields, strict=True):
            for unit in range(first, first + count):
                yield self._part(which, number, unit, begin, end)

    def __reversed__(self) -> Iterator[ShardPart]:
        fields = [reversed(self._rows)] * self._FIELDS
        for count, end, begin, first, number, which in zip(*fields, strict=True):
            for unit in reversed(range(first, first + count)):
                yield self._part(which, number, unit, begin, end)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PieceParts) and (
            (self._rows, [*self._steps]) == (other._rows, [*other._steps])
        )

    def __hash__(self) -> int:
        return hash(self._rows.tobytes())

    def _part(self, which: int, number: int, unit: int, begin: int, end: int) -> ShardPart:
        if which == self._FRAMING:
            return FramingBytes(number, end)
        return StepBytes(self._steps, which, number, unit, begin, end)


def step_parts(steps: Sequence[Step], index: int) -> Iterator[StepBytes]:
    """Yield all units of a step: copies in cuts of COPY_BYTES, others whole."""
    for section, how in enumerate(steps[index].sections):
        for unit in range(how.units):
            yield from unit_parts(steps, index, unit, section)


def unit_parts(
    steps: Sequence[Step], index: int, unit: int, section: int = 0
) -> Iterator[StepBytes]:
    """Yield one unit of a step: a copy in cuts of COPY_BYTES, any other whole."""
    how = steps[index].sections[section]
    size = how.unit_bytes
    cut = COPY_BYTES if how.is_copy else max(size, 1)
    for begin in range(0, size, cut):
        yield StepBytes(steps, index, section, unit, begin, min(begin + cut, size))

"""The interface of file formats, which cut an output into files: the shards.

A shard consists of parts, in the order of the file: bytes of the output tensors, and framing bytes
that belong to the format, such as a header. A format cuts steps into shards and says which parts
each has. Whatever runs a plan knows no format.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from streamconv.checkpoint.manifest import Manifest
from streamconv.checkpoint.types import TensorInfo
from streamconv.planning.rearrangement import Rearrangement
from streamconv.planning.steps import Step

COPY_BYTES = 8 * 2**20
"""Bytes at which a copy is cut, so that a piece can end there. Other units stay whole."""


@dataclass(frozen=True, slots=True)
class FramingBytes:
    """Bytes of the file format itself, such as a header."""

    number: int
    """Number by which the format builds them."""
    nbytes: int


@dataclass(frozen=True, slots=True)
class StepBytes:
    """Bytes `begin` to `end` of one unit of a step."""

    step: Step
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
    steps: tuple[Step, ...]
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
        """Settings in which two outputs of this format can differ, in words."""

    def shards(self, steps: Iterable[Step], max_shard_bytes: int) -> Iterator[Shard]:
        """Put steps into files of at most `max_shard_bytes` of data, each at its offset.

        A single tensor that is larger gets a file of its own.
        """

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


def with_offsets(steps: Iterable[Step]) -> Iterator[Step]:
    """Yield the steps, each with its offset if their bytes are concatenated in this order."""
    offset = 0
    for step in steps:
        yield replace(step, offset=offset)
        offset += step.nbytes


def step_parts(step: Step) -> Iterator[StepBytes]:
    """Yield all units of a step: copies in cuts of COPY_BYTES, others whole."""
    for section, how in enumerate(step.sections):
        for unit in range(how.units):
            yield from unit_parts(step, unit, section)


def unit_parts(step: Step, unit: int, section: int = 0) -> Iterator[StepBytes]:
    """Yield one unit of a step: a copy in cuts of COPY_BYTES, any other whole."""
    how = step.sections[section]
    size = how.unit_bytes
    cut = COPY_BYTES if how.is_copy else max(size, 1)
    for begin in range(0, size, cut):
        yield StepBytes(step, section, unit, begin, min(begin + cut, size))

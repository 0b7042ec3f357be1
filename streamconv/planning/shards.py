"""Output files: which tensors each of them holds, and what stands around their bytes. Pure.

A shard is a sequence of parts in the order of the file: frames, which belong to the file format,
and segments, which are tensors' bytes. A format says how steps are cut into shards and which
parts a shard has; nothing right of it knows one format from another.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from streamconv.checkpoint.layout_record import METADATA_KEY, Record
from streamconv.checkpoint.tensor_names import natural_key
from streamconv.checkpoint.types import INDEX, MANIFEST, TensorInfo
from streamconv.formats.safetensors import DTYPE_BITS, Entry, build_header
from streamconv.planning.rearrangement import Rearrangement
from streamconv.planning.steps import Step

FILENAME_PATTERN = "model{suffix}.safetensors"
DATA_ALIGNMENT = 4096
"""Where a shard's data begins, in bytes: on a page, so that it can be read past the page cache."""
COPY_BYTES = 8 * 2**20
"""A copy is cut into segments of this size; what is rearranged comes in whole units."""


@dataclass(frozen=True, slots=True)
class FramingBytes:
    """Bytes of the file format itself, such as a header."""

    number: int
    """Which of the shard's frames this is."""
    nbytes: int


@dataclass(frozen=True, slots=True)
class StepBytes:
    """Bytes `begin` to `end` of one unit of a section of a step."""

    step: Step
    section: int
    unit: int
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.begin

    @property
    def how(self) -> Rearrangement:
        """How its section is made."""
        return self.step.sections[self.section]

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """What its section is made from."""
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
        """What `--format` calls it."""

    @property
    def leaves_behind(self) -> str:
        """Why the other files of a checkpoint do not travel along; empty where they do."""

    @property
    def facts(self) -> tuple[str, ...]:
        """What else makes one output of this format differ from another."""

    def shards(self, steps: Iterable[Step], max_shard_bytes: int) -> Iterator[Shard]:
        """Steps laid out in files of at most `max_shard_bytes` of data, each at its offset."""

    def parts(self, shard: Shard) -> Iterator[ShardPart]:
        """What the file consists of, without gaps, in order."""

    def framing_bytes(self, shard: Shard, number: int) -> bytes:
        """The bytes of one of the shard's frames."""

    def closing_files(
        self, shards: Sequence[Shard], manifest: Callable[[Mapping[str, bytes]], bytes]
    ) -> Iterator[tuple[str, bytes]]:
        """Names and bytes of what is written last, in order.

        `manifest` makes the manifest of an output that also has the files it is given.
        """


@dataclass(frozen=True, slots=True)
class Safetensors:
    """Shards as on the hub, cut by its own rules; the only frame is the header."""

    record: Record
    """What each shard's metadata says of the layouts in it."""
    name: str = "safetensors"
    leaves_behind: str = ""
    facts: tuple[str, ...] = ()

    def shards(self, steps: Iterable[Step], max_shard_bytes: int) -> Iterator[Shard]:
        """In natural order of names; inside a shard by the alignment that the dtypes ask for."""
        from huggingface_hub import split_state_dict_into_shards_factory

        by_name = {step.name: step for step in sorted(steps, key=lambda s: natural_key(s.name))}
        split = split_state_dict_into_shards_factory(
            by_name,
            get_storage_size=lambda step: step.nbytes,
            filename_pattern=FILENAME_PATTERN,
            max_shard_size=max_shard_bytes,
        )
        for file, names in split.filename_to_tensors.items():
            widest_first = sorted((by_name[name] for name in names), key=lambda s: -_alignment(s))
            placed = tuple(at_offsets(widest_first))
            data_bytes = sum(step.nbytes for step in placed)
            yield Shard(file, placed, len(self._header(placed)) + data_bytes, data_bytes)

    def parts(self, shard: Shard) -> Iterator[ShardPart]:
        yield FramingBytes(0, shard.nbytes - shard.data_bytes)
        for step in shard.steps:
            yield from segments(step)

    def framing_bytes(self, shard: Shard, number: int) -> bytes:
        return self._header(shard.steps)

    def closing_files(
        self, shards: Sequence[Shard], manifest: Callable[[Mapping[str, bytes]], bytes]
    ) -> Iterator[tuple[str, bytes]]:
        """The index, which a single shard does not have, and the manifest."""
        described = {} if len(shards) == 1 else {INDEX: build_index(shards)}
        yield from described.items()
        yield MANIFEST, manifest(described)

    def _header(self, steps: Iterable[Step]) -> bytes:
        entries = (Entry(s.name, s.dtype, s.shape, s.offset, s.offset + s.nbytes) for s in steps)
        metadata = {"format": "pt", METADATA_KEY: json.dumps(self.record.to_json(), sort_keys=True)}
        return build_header(entries, metadata, DATA_ALIGNMENT)


def build_index(shards: Sequence[Shard]) -> bytes:
    """The index of safetensors shards, as the hub has it."""
    weight_map = {step.name: shard.name for shard in shards for step in shard.steps}
    index = {
        "metadata": {"total_size": sum(shard.data_bytes for shard in shards)},
        "weight_map": dict(sorted(weight_map.items())),
    }
    return (json.dumps(index, indent=2) + "\n").encode("ascii")


def _alignment(step: Step) -> int:
    """Bits on a multiple of which an element wants to lie; sub-byte dtypes come last."""
    return DTYPE_BITS[step.dtype]


def at_offsets(steps: Iterable[Step]) -> Iterator[Step]:
    """The steps one behind the other, each with its offset in the shard's data."""
    offset = 0
    for step in steps:
        yield replace(step, offset=offset)
        offset += step.nbytes


def segments(step: Step) -> Iterator[StepBytes]:
    """A step's whole units, but for copies, which are cut wherever a piece may be full."""
    for section, how in enumerate(step.sections):
        for unit in range(how.units):
            yield from unit_segments(step, unit, section)


def unit_segments(step: Step, unit: int, section: int = 0) -> Iterator[StepBytes]:
    """One unit of a section of a step: whole, or a copy cut into segments."""
    how = step.sections[section]
    size = how.unit_bytes
    cut = COPY_BYTES if how.is_copy else max(size, 1)
    for begin in range(0, size, cut):
        yield StepBytes(step, section, unit, begin, min(begin + cut, size))

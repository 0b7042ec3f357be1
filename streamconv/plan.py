"""The complete plan of a conversion, made from headers alone. Pure.

A step makes one output tensor. Steps are laid out in shards, every offset known before the
first byte is read. A piece is a contiguous run of a shard, cut at expert boundaries and never
depending on how many workers there are: the unit of work and of digests.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from streamconv.checkpoint import Checkpoint, OtherFile, layer_of, natural_key
from streamconv.errors import PlanRefused, quoted
from streamconv.formats.safetensors import DTYPE_BITS, Entry, build_header
from streamconv.memory import Limits, Memory, fit_memory
from streamconv.recognise import Recognised
from streamconv.records import METADATA_KEY, Record
from streamconv.steps import Step, make_steps
from streamconv.target import Target

FILENAME_PATTERN = "model{suffix}.safetensors"
DATA_ALIGNMENT = 4096
"""Where a shard's data begins, in bytes: on a page, so that experts can be written directly."""
PIECE_BYTES = 8 * 2**20
"""A piece ends with the first expert or tensor at which it has this many bytes."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes `begin` to `end` of one unit of a step."""

    step: Step
    unit: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A contiguous run of a shard, from `offset` in the file; the header is a piece as well."""

    shard: int
    offset: int
    nbytes: int
    segments: tuple[Segment, ...]
    """What it consists of, in order; none for the header."""


@dataclass(frozen=True)
class Shard:
    """One output file."""

    name: str
    steps: tuple[Step, ...]
    """In the order of their bytes."""
    header_bytes: int
    data_bytes: int

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return self.header_bytes + self.data_bytes


@dataclass(frozen=True)
class Plan:
    """Everything that is going to happen. Holds no tensor data."""

    checkpoint: Checkpoint
    source: Recognised
    target: Target
    shards: tuple[Shard, ...]
    record: Record
    max_shard_bytes: int
    memory: Memory

    @cached_property
    def data_bytes(self) -> int:
        """Bytes of all output tensors."""
        return sum(shard.data_bytes for shard in self.shards)

    @cached_property
    def copied(self) -> tuple[OtherFile, ...]:
        """The other files that travel along."""
        return tuple(other for other in self.checkpoint.others if not other.left_behind)

    @cached_property
    def write_bytes(self) -> int:
        """Bytes of everything that is written, but for index and manifest."""
        return sum(s.nbytes for s in self.shards) + sum(other.size for other in self.copied)

    @cached_property
    def layer_paths(self) -> frozenset[str]:
        """Where the layers that have experts are, in output names: `model.layers.`"""
        prefixes = (module.prefix for stack in self.source.stacks for module in stack.modules)
        places = (layer_of(self.target.names.apply(prefix)) for prefix in prefixes)
        return frozenset(place[0] for place in places if place)

    def layer(self, step: Step) -> tuple[str, int] | None:
        """Path and number of the layer that a step belongs to; None for one that is in none."""
        place = layer_of(step.name)
        return place if place and place[0] in self.layer_paths else None

    def steps_by_layer(self) -> Mapping[tuple[str, int] | None, list[Step]]:
        """The steps of each layer, in order of layers; last those that are in none."""
        grouped: dict[tuple[str, int] | None, list[Step]] = {}
        for shard in self.shards:
            for step in shard.steps:
                grouped.setdefault(self.layer(step), []).append(step)
        return dict(sorted(grouped.items(), key=lambda item: (item[0] is None, item[0])))

    def pieces(self) -> Iterator[Piece]:
        """Every piece, in the order of shards and offsets."""
        for number, shard in enumerate(self.shards):
            yield Piece(number, 0, shard.header_bytes, ())
            yield from _pieces(number, shard)

    def header(self, number: int) -> bytes:
        """The header of a shard, as it is written."""
        return _header(self.shards[number].steps, self.record)


def make_plan(
    checkpoint: Checkpoint,
    source: Recognised,
    target: Target,
    *,
    max_shard_bytes: int,
    limits: Limits,
    layers: range | None = None,
) -> Plan:
    """The plan that turns `checkpoint` into `target`.

    `layers` keeps only these layers and what belongs to no layer. Raises PlanRefused where the
    checkpoint has no experts, two tensors would get one name, or memory does not suffice.
    """
    if not source.stacks:
        raise PlanRefused(
            f"{checkpoint.location} holds no expert stack, so there is nothing to convert",
            "`streamconv inspect` shows what is in there",
        )
    steps = make_steps(source, target, layers)
    partial = _partial(source, layers)
    widest = max(steps, key=lambda step: step.how.buffer_bytes)
    record = Record(target.names.name, target.form, target.rows, partial)
    shards = tuple(_shards(steps, max_shard_bytes, record))
    _check_files(checkpoint, shards)
    return Plan(
        checkpoint=checkpoint,
        source=source,
        target=target,
        shards=shards,
        record=record,
        max_shard_bytes=max_shard_bytes,
        memory=fit_memory(limits, widest.how.buffer_bytes, widest.name),
    )


def _check_files(checkpoint: Checkpoint, shards: tuple[Shard, ...]) -> None:
    """Refuse other files that would lie where a shard has to be."""
    names = {shard.name for shard in shards}
    for other in checkpoint.others:
        if other.name.partition("/")[0] in names and not other.left_behind:
            raise PlanRefused(
                f"{quoted(other.name)} of {checkpoint.location} lies where an output shard of that "
                "name has to be",
                "move it away, or choose another --max-shard-size",
            )


def _partial(source: Recognised, layers: range | None) -> str | None:
    """The wanted layers as text; a range without an end ends after the last layer there is."""
    if layers is None:
        return None
    places = (layer_of(module.prefix) for stack in source.stacks for module in stack.modules)
    last = max((place[1] for place in places if place), default=0)
    return f"{layers.start}:{max(min(layers.stop, last + 1), layers.start + 1)}"


def _shards(steps: list[Step], max_shard_bytes: int, record: Record) -> Iterator[Shard]:
    """Steps in natural order of their names, cut into shards by the hub's own rules."""
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
        placed = []
        offset = 0
        for step in widest_first:
            placed.append(replace(step, offset=offset))
            offset += step.nbytes
        header_bytes = len(_header(placed, record))
        yield Shard(file, tuple(placed), header_bytes, offset)


def _alignment(step: Step) -> int:
    """Bits on a multiple of which an element wants to lie; sub-byte dtypes come last."""
    return DTYPE_BITS[step.dtype]


def _header(steps: Iterable[Step], record: Record) -> bytes:
    entries = (Entry(s.name, s.dtype, s.shape, s.offset, s.offset + s.nbytes) for s in steps)
    metadata = {"format": "pt", METADATA_KEY: json.dumps(record.to_json(), sort_keys=True)}
    return build_header(entries, metadata, DATA_ALIGNMENT)


def _pieces(number: int, shard: Shard) -> Iterator[Piece]:
    """A shard's data cut into pieces; the tensors of one expert stay together."""
    segments: list[Segment] = []
    begin = position = shard.header_bytes
    owner: tuple[str, Any] = ("", None)
    for segment in itertools.chain.from_iterable(map(_segments, shard.steps)):
        step = segment.step
        next_owner = (step.module, step.expert)
        if position - begin >= PIECE_BYTES and (step.expert is None or next_owner != owner):
            yield Piece(number, begin, position - begin, tuple(segments))
            segments, begin = [], position
        owner = next_owner
        segments.append(segment)
        position += segment.end - segment.begin
    if segments:
        yield Piece(number, begin, position - begin, tuple(segments))


def _segments(step: Step) -> Iterator[Segment]:
    """Whole units, but for copies, which are cut wherever a piece is full."""
    size = step.how.unit_bytes
    cut = PIECE_BYTES if step.how.is_copy else max(size, 1)
    for unit in range(step.how.units):
        for begin in range(0, size, cut):
            yield Segment(step, unit, begin, min(begin + cut, size))

"""The complete plan of a conversion, made from headers alone. Pure.

A step makes one output tensor. Steps are laid out in shards, every offset known before the
first byte is read. A piece is a contiguous run of a shard, cut at expert boundaries and never
depending on how many workers there are: the unit of work and of digests.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from streamconv.checkpoint.casting import AS_STORED, Casting, buffer_bytes
from streamconv.checkpoint.layout_record import LayoutNames, Record
from streamconv.checkpoint.tensor_names import layer_of
from streamconv.checkpoint.types import Checkpoint, OtherFile, TensorInfo
from streamconv.detection.detect import Detected
from streamconv.errors import PlanRefused, quoted
from streamconv.planning.lossless import check_lossless
from streamconv.planning.memory import Limits, Memory, fit_memory
from streamconv.planning.shards import (
    FramingBytes,
    Safetensors,
    Shard,
    ShardFormat,
    ShardPart,
    StepBytes,
)
from streamconv.planning.steps import Step, make_steps
from streamconv.planning.target import Target

PIECE_BYTES = 8 * 2**20
"""A piece ends with the first expert or tensor at which it has this many bytes."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A contiguous run of a shard, from `offset` in the file."""

    shard: int
    offset: int
    nbytes: int
    parts: tuple[ShardPart, ...]
    """What it consists of, in order."""


@dataclass(frozen=True)
class Plan:
    """Everything that is going to happen. Holds no tensor data."""

    checkpoint: Checkpoint
    """As it is stored."""
    source: Detected
    """What it is with all casts done."""
    target: Target
    format: ShardFormat
    shards: tuple[Shard, ...]
    record: Record
    max_shard_bytes: int
    memory: Memory
    casting: Casting = AS_STORED

    @cached_property
    def data_bytes(self) -> int:
        """Bytes of all output tensors."""
        return sum(shard.data_bytes for shard in self.shards)

    @cached_property
    def copied(self) -> tuple[OtherFile, ...]:
        """The other files that travel along."""
        return tuple(other for other in self.others if not other.skip_reason)

    @cached_property
    def others(self) -> tuple[OtherFile, ...]:
        """The source's other files, with why those that do not travel along stay."""
        why = self.format.leaves_behind
        return tuple(replace(o, skip_reason=o.skip_reason or why) for o in self.checkpoint.others)

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

    @cached_property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Every tensor that something is made from, once."""
        steps = (step for shard in self.shards for step in shard.steps)
        return tuple({info.name: info for step in steps for info in step.inputs}.values())

    @cached_property
    def read_bytes(self) -> int:
        """Bytes of everything that is read, as it is stored, but for headers and JSON."""
        return sum(i.nbytes for i in self.stored) + sum(other.size for other in self.copied)

    @cached_property
    def transfer_bytes(self) -> int:
        """Those of them that come over a network."""
        remote = self.checkpoint.remote
        tensors = sum(info.nbytes for info in self.stored if info.file in remote)
        return tensors + sum(other.size for other in self.copied if other.name in remote)

    @cached_property
    def stored(self) -> tuple[TensorInfo, ...]:
        """Every tensor of the source that is read, once."""
        return tuple({i.name: i for info in self.inputs for i in info.stored}.values())

    def pieces(self, shards: Iterable[int] | None = None) -> Iterator[Piece]:
        """Every piece, or those of some shards, in the order of shards and offsets."""
        for number in range(len(self.shards)) if shards is None else shards:
            yield from _pieces(number, self.format.parts(self.shards[number]))

    def framing_bytes(self, piece: Piece, frame: FramingBytes) -> bytes:
        """The bytes of a frame of a piece."""
        return self.format.framing_bytes(self.shards[piece.shard], frame.number)


def make_plan(
    checkpoint: Checkpoint,
    source: Detected,
    target: Target,
    *,
    max_shard_bytes: int,
    limits: Limits,
    layers: range | None = None,
    written: Callable[[Record], ShardFormat] = Safetensors,
    casting: Casting = AS_STORED,
) -> Plan:
    """The plan that turns `checkpoint` into `target`, in files of the format `written`.

    `source` is what `checkpoint` is under `casting`.
    `layers` keeps only these layers and what belongs to no layer. Raises PlanRefused where the
    checkpoint has no experts, two tensors would get one name, or memory does not suffice.
    """
    if not source.stacks and not source.undescribed:
        raise PlanRefused(
            f"{checkpoint.location} holds no expert stack, so there is nothing to convert",
            "`streamconv inspect` shows what is in there",
        )
    steps = make_steps(source, target, layers)
    check_lossless(steps, source, target, layers)
    casts = max(buffer_bytes(step.inputs, step.concurrent_inputs) for step in steps)
    partial = _partial(source, layers)
    widest = max(steps, key=lambda step: step.buffer_bytes)
    names = {pattern: LayoutNames.of(row) for pattern, row in target.rows.items()}
    record = Record(target.names.name, target.form, names, partial)
    file_format = written(record)
    shards = tuple(file_format.shards(steps, max_shard_bytes))
    if not file_format.leaves_behind:
        _check_files(checkpoint, shards)
    return Plan(
        checkpoint=checkpoint,
        source=source,
        target=target,
        format=file_format,
        shards=shards,
        record=record,
        max_shard_bytes=max_shard_bytes,
        memory=fit_memory(
            limits, widest.buffer_bytes, widest.name, casts, checkpoint.read_scratch_bytes
        ),
        casting=casting,
    )


def _check_files(checkpoint: Checkpoint, shards: tuple[Shard, ...]) -> None:
    """Refuse other files that would lie where a shard has to be."""
    names = {shard.name for shard in shards}
    for other in checkpoint.others:
        if other.name.partition("/")[0] in names and not other.skip_reason:
            raise PlanRefused(
                f"{quoted(other.name)} of {checkpoint.location} lies where an output shard of that "
                "name has to be",
                "move it away, or choose another --max-shard-size",
            )


def _partial(source: Detected, layers: range | None) -> str | None:
    """The wanted layers as text; a range without an end ends after the last layer there is."""
    if layers is None:
        return None
    places = (layer_of(module.prefix) for stack in source.stacks for module in stack.modules)
    last = max((place[1] for place in places if place), default=0)
    return f"{layers.start}:{max(min(layers.stop, last + 1), layers.start + 1)}"


def _pieces(number: int, parts: Iterator[ShardPart]) -> Iterator[Piece]:
    """A shard's parts grouped into pieces; the tensors of one expert stay together."""
    held: list[ShardPart] = []
    begin = position = 0
    owner: tuple[str, Any] = ("", None)
    for part in parts:
        next_owner = (part.step.module, part.step.expert) if isinstance(part, StepBytes) else owner
        together = next_owner == owner and owner[1] is not None
        if position - begin >= PIECE_BYTES and not together:
            yield Piece(number, begin, position - begin, tuple(held))
            held, begin = [], position
        owner = next_owner
        held.append(part)
        position += part.nbytes
    if held:
        yield Piece(number, begin, position - begin, tuple(held))

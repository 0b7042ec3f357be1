"""The complete plan of a conversion, made from headers alone.

Five words say what is in a plan:

step
    One output tensor, and how it is made from its inputs. Steps are in shards, and every offset is
    known before the first byte is read.
section
    The part of a step that a single rearrangement makes. A step has one section, unless several
    weights are concatenated in its tensor.
unit
    An equal share of a section, made at once: one expert if the tensor holds several, else the
    whole section. What a worker keeps in memory is one unit's input.
piece
    Adjacent bytes of a shard that one worker makes, and that have one digest. Pieces end where an
    expert ends and never depend on the number of workers. A large copy is cut into several.
panel
    Some rows of a unit's output that are transposed together, small enough to stay in the
    processor's cache. Panels are not in the plan: `execution/transpose.py` cuts a unit into them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from streamconv.catalog.checkpoint_files import CONFIG
from streamconv.checkpoint.casting import AS_STORED, Casting
from streamconv.checkpoint.layout_record import Record
from streamconv.checkpoint.tensor_names import layer_of
from streamconv.checkpoint.types import Checkpoint, OtherFile, TensorInfo
from streamconv.detection.detect import Detected
from streamconv.errors import quoted
from streamconv.planning.config_change import AS_IT_IS, ConfigChange
from streamconv.planning.memory import Memory
from streamconv.planning.shards import (
    FramingBytes,
    PieceParts,
    Shard,
    ShardFormat,
    ShardPart,
    StepBytes,
)
from streamconv.planning.steps import Step, Steps
from streamconv.planning.target import Target
from streamconv.units import show_size

PIECE_BYTES = 8 * 2**20
"""A piece ends with the first expert or tensor at which it has this many bytes."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Adjacent bytes of a shard, made by one worker."""

    shard: int
    """Index of the shard."""
    offset: int
    """Bytes from the start of the file."""
    nbytes: int
    parts: PieceParts
    """Its content, in order."""

    def __repr__(self) -> str:
        return f"<Piece of shard {self.shard}: {self.nbytes:,} bytes at {self.offset:,}>"


@dataclass(frozen=True)
class Plan:
    """Everything that a conversion is going to do. Holds no tensor data."""

    checkpoint: Checkpoint
    """The source as it is stored."""
    source: Detected
    """What was detected in it, with all casts applied."""
    target: Target
    """The form or layout of the output, and the reason for it."""
    steps: Steps
    """Every output tensor, in natural order of names, before it is assigned to a shard."""
    format: ShardFormat
    """The format of the output files."""
    shards: tuple[Shard, ...]
    """The output files, each with its tensors in the order of their bytes."""
    record: Record
    """What the output says of its own layouts."""
    max_shard_bytes: int
    """Size limit of an output file."""
    memory: Memory
    """The projected peak memory, and the number of workers."""
    casting: Casting = AS_STORED
    """The casts that are made."""
    config: ConfigChange = AS_IT_IS
    """The changes of config.json."""
    sample: str = ""
    """Digest of a sample of the source's weights, if a run follows. Empty if there is none."""

    def __repr__(self) -> str:
        form = self.source.form or ", ".join(dict.fromkeys(self._layouts())) or "no expert stack"
        return (
            f"<Plan of {quoted(self.checkpoint.location)}: {form} to {self.target.asked}, "
            f"{len(self.steps):,} tensors in {len(self.shards):,} shards, "
            f"{show_size(self.data_bytes)}>"
        )

    def _layouts(self) -> Iterator[str]:
        """Yield the layout of each stack of the source."""
        return (stack.row.layout.name for stack in self.source.stacks)

    @cached_property
    def data_bytes(self) -> int:
        """Bytes of all output tensors."""
        return sum(shard.data_bytes for shard in self.shards)

    @cached_property
    def copied(self) -> tuple[OtherFile, ...]:
        """The files without tensors that are copied."""
        return tuple(other for other in self.others if not other.skip_reason)

    @cached_property
    def others(self) -> tuple[OtherFile, ...]:
        """The source's files without tensors, each with the reason if it is not copied."""
        skip = self.format.skip_reason
        left_out = dict.fromkeys(self.config.left_out, "describes quantized weights")
        return tuple(
            replace(other, skip_reason=other.skip_reason or skip or left_out.get(other.name, ""))
            for other in self.checkpoint.others
        )

    @property
    def has_config(self) -> bool:
        """True if config.json is written. Next to a DCP, there is none."""
        return any(other.name == CONFIG for other in self.copied)

    @cached_property
    def edited(self) -> Mapping[str, bytes]:
        """The new content of each copied file that is edited: config.json, if there are edits."""
        if not self.config.edits or not self.has_config:
            return {}
        return {CONFIG: self.config.content(self.checkpoint)}

    @cached_property
    def write_bytes(self) -> int:
        """Bytes of everything that is written, except index and manifest."""
        grown = {name: len(content) for name, content in self.edited.items()}
        copied = sum(grown.get(other.name, other.size) for other in self.copied)
        return sum(s.nbytes for s in self.shards) + copied

    @cached_property
    def layer_paths(self) -> frozenset[str]:
        """Paths of the lists of layers, in output names: `model.layers.`"""
        prefixes = [module.prefix for stack in self.source.stacks for module in stack.modules]
        if not prefixes:
            paths = tuple(each.path for each in self.source.layer_lists)
            prefixes = [name for name in self.source.hub_names if name.startswith(paths)]
        layers = (layer_of(self.target.names.apply(prefix)) for prefix in prefixes)
        return frozenset(layer[0] for layer in layers if layer)

    def layer(self, step: Step) -> tuple[str, int] | None:
        """Return the path and number of the layer that a step belongs to, or None."""
        layer = layer_of(step.name)
        return layer if layer and layer[0] in self.layer_paths else None

    def steps_by_layer(self) -> Mapping[tuple[str, int] | None, list[Step]]:
        """Return the steps of each layer, in the order of layers; those in no layer come last."""
        grouped: dict[tuple[str, int] | None, list[Step]] = {}
        for shard in self.shards:
            for step in shard.steps:
                grouped.setdefault(self.layer(step), []).append(step)
        return dict(sorted(grouped.items(), key=lambda item: (item[0] is None, item[0])))

    def step(self, name: str) -> Step:
        """Return the step that makes the tensor `name`, at offset 0. Raises KeyError."""
        return self.steps[self.steps.find(name)]

    @property
    def inputs(self) -> Iterator[TensorInfo]:
        """Every tensor that a step takes, once; with casts applied."""
        return self.steps.inputs()

    @cached_property
    def read_bytes(self) -> int:
        """Bytes of everything that is read, as it is stored, except headers and JSON."""
        return sum(i.nbytes for i in self.stored) + sum(other.size for other in self.copied)

    @cached_property
    def transfer_bytes(self) -> int:
        """The bytes of `read_bytes` that come over a network."""
        remote = self.checkpoint.remote
        if not remote:
            return 0
        tensors = sum(info.nbytes for info in self.stored if info.file in remote)
        return tensors + sum(other.size for other in self.copied if other.name in remote)

    @property
    def stored(self) -> Iterator[TensorInfo]:
        """Every stored tensor that is read, once."""
        if self.casting.quantize is None:
            inputs = self.inputs
            return (each for info in inputs for each in ((info,) if not info.cast else info.stored))
        # codes and scales are made of one weight, and experts are parts of one tensor
        found = (stored for info in self.inputs for stored in info.stored)
        return iter({stored.name: stored for stored in found}.values())

    def pieces(self, shards: Iterable[int] | None = None) -> Iterator[Piece]:
        """Yield every piece, or those of some shards, in the order of shards and offsets."""
        for number in range(len(self.shards)) if shards is None else shards:
            shard = self.shards[number]
            yield from cut_pieces(number, shard, self.format.parts(shard))

    def framing_bytes(self, piece: Piece, part: FramingBytes) -> Iterator[bytes]:
        """Yield the content of a part of a piece that belongs to the file format."""
        return self.format.framing_bytes(self.shards[piece.shard], part.number)


def cut_pieces(number: int, shard: Shard, parts: Iterable[ShardPart]) -> Iterator[Piece]:
    """Group the parts of a shard into pieces; the tensors of one expert stay together."""
    pending = PieceParts(shard.steps)
    begin = position = 0
    owner: tuple[str, int | None] = ("", None)
    for part in parts:
        next_owner = owner
        if isinstance(part, StepBytes):
            step = part.step
            next_owner = (step.module, step.expert)
        same_expert = next_owner == owner and owner[1] is not None
        if position - begin >= PIECE_BYTES and not same_expert:
            yield Piece(number, begin, position - begin, pending)
            pending, begin = PieceParts(shard.steps), position
        owner = next_owner
        pending.append(part)
        position += part.nbytes
    if pending:
        yield Piece(number, begin, position - begin, pending)

"""The files of a torch.distributed.checkpoint: tensors in chunks, each in an archive. Pure.

A chunk is what a reader takes at once, so a tensor of many experts is stored as one chunk an
expert, wherever it is streamed along them, and any other as a single one. Around each stand the
frames of its archive. Readers put chunks together, or take of them what their rank needs.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streamconv.catalog.presets import Prefixes, Preset
from streamconv.checkpoint.tensor_names import natural_key
from streamconv.errors import PlanRefused, quoted
from streamconv.formats.dcp_metadata import DATA_SUFFIX, METADATA_FILE, build_metadata
from streamconv.formats.dcp_tensors import Chunk, StoredBytes, StoredTensor
from streamconv.formats.torch_archive import TORCH_DTYPES, archive_of_value, around_tensor
from streamconv.planning.shards import (
    FramingBytes,
    Shard,
    ShardPart,
    at_offsets,
    segments,
    unit_segments,
)
from streamconv.planning.steps import Step


@dataclass(frozen=True)
class Dcp:
    """Shards that torch.distributed.checkpoint reads, with a `.metadata` beside them."""

    prefixes: Prefixes
    preset: Preset | None
    config: Mapping[str, Any]
    """What config.json says: a training run keeps it elsewhere, and the way back asks for it."""
    name: str = "dcp"
    leaves_behind: str = "a DCP folder holds nothing but weights"

    @property
    def facts(self) -> tuple[str, ...]:
        mapped = f"names {self.prefixes.hf}* as {self.prefixes.dcp}*"
        form = (f"preset {self.preset.name}",) if self.preset else ()
        return form if self.prefixes.hf == self.prefixes.dcp else (*form, mapped)

    def shards(self, steps: Iterable[Step], max_shard_bytes: int) -> Iterator[Shard]:
        """In natural order of names; a tensor is never in two files."""
        ordered = sorted(steps, key=lambda step: natural_key(step.name))
        self._check(ordered)
        held: list[Step] = []
        nbytes = number = 0
        for step in ordered:
            if held and nbytes + step.nbytes > max_shard_bytes:
                yield self._shard(number, held)
                held, nbytes, number = [], 0, number + 1
            held.append(step)
            nbytes += step.nbytes
        yield self._shard(number, held)

    def _shard(self, number: int, steps: list[Step]) -> Shard:
        placed = tuple(at_offsets(steps))
        name = f"{self._folder}__0_{number}{DATA_SUFFIX}"
        data_bytes = sum(step.nbytes for step in placed)
        nbytes = sum(part.nbytes for part in self.parts(Shard(name, placed, 0, data_bytes)))
        return Shard(name, placed, nbytes, data_bytes)

    @property
    def _folder(self) -> str:
        return f"{self.preset.folder}/" if self.preset else ""

    def _check(self, steps: Sequence[Step]) -> None:
        """Refuse what has no place in a DCP, or no way back from it."""
        keys: dict[str, str] = {}
        for step in steps:
            key = self.prefixes.apply(step.name)
            if step.dtype not in TORCH_DTYPES:
                raise PlanRefused(
                    f"tensor {quoted(step.name)} is {step.dtype}, which torch has no dtype for"
                )
            if key in keys:
                raise PlanRefused(
                    f"tensors {quoted(keys[key])} and {quoted(step.name)} would both have the key "
                    f"{quoted(key)}",
                    "choose other prefixes",
                )
            if not self.prefixes.is_reversible(step.name):
                raise PlanRefused(
                    f"tensor {quoted(step.name)} would have the key {quoted(key)} and come back "
                    f"from it as {quoted(self.prefixes.undo(key))}",
                    "choose prefixes that can be undone",
                )
            keys[key] = step.name
        for extra in self._extras():
            if extra in keys:
                raise PlanRefused(f"tensor {quoted(keys[extra])} would have the key {extra!r}")

    def parts(self, shard: Shard) -> Iterator[ShardPart]:
        """Of each step, the archives of its chunks; in the first file, those of the extras."""
        for number, step in enumerate(shard.steps):
            shape, count = _chunk_shape(step)
            head, tail = around_tensor(step.dtype, shape)
            for unit in range(count):
                yield FramingBytes(2 * number, len(head))
                yield from segments(step) if count == 1 else unit_segments(step, unit)
                yield FramingBytes(2 * number + 1, len(tail))
        for number, extra in enumerate(self._extras_in(shard).values()):
            yield FramingBytes(2 * len(shard.steps) + number, len(extra))

    def framing_bytes(self, shard: Shard, number: int) -> bytes:
        which, end = divmod(number, 2)
        if which < len(shard.steps):
            step = shard.steps[which]
            return around_tensor(step.dtype, _chunk_shape(step)[0])[end]
        return list(self._extras_in(shard).values())[number - 2 * len(shard.steps)]

    def _extras(self) -> Mapping[str, Any]:
        return self.preset.extras if self.preset else {}

    def _extras_in(self, shard: Shard) -> dict[str, bytes]:
        """The archives of what the state dict holds besides tensors: all in the first file."""
        first = shard.name == f"{self._folder}__0_0{DATA_SUFFIX}"
        return {key: archive_of_value(v) for key, v in self._extras().items()} if first else {}

    def closing_files(
        self, shards: Sequence[Shard], manifest: Callable[[Mapping[str, bytes]], bytes]
    ) -> Iterator[tuple[str, bytes]]:
        """The metadata, with the manifest in it, and what points to it."""
        own = {
            "manifest": json.loads(manifest({})),
            "keys": {"hf_prefix": self.prefixes.hf, "dcp_prefix": self.prefixes.dcp},
            "config": self.config,
        }
        tensors: list[StoredTensor] = []
        others: list[StoredBytes] = []
        for shard in shards:
            position = 0
            file = shard.name.removeprefix(self._folder)
            for step in shard.steps:
                stored = self._stored(step, file, position)
                tensors.append(stored)
                position += sum(chunk.nbytes for chunk in stored.chunks)
            for key, content in self._extras_in(shard).items():
                others.append(StoredBytes(key, (key,), file, position, len(content)))
                position += len(content)
        yield f"{self._folder}{METADATA_FILE}", build_metadata(tensors, others, json.dumps(own))
        if self.preset:
            yield self.preset.tracker["name"], self.preset.tracker["text"].encode()

    def _stored(self, step: Step, file: str, position: int) -> StoredTensor:
        shape, count = _chunk_shape(step)
        head, tail = around_tensor(step.dtype, shape)
        nbytes = len(head) + step.nbytes // count + len(tail)
        offsets = [
            (unit * shape[0], *(0 for _ in shape[1:])) if shape else () for unit in range(count)
        ]
        wrapper = (self.preset.wrapper,) if self.preset else ()
        path = (*wrapper, self.prefixes.apply(step.name))
        return StoredTensor(
            key=".".join(path),
            path=path,
            dtype=step.dtype,
            shape=step.shape,
            chunks=tuple(
                Chunk(at, shape, file, position + unit * nbytes, nbytes)
                for unit, at in enumerate(offsets)
            ),
        )


def _chunk_shape(step: Step) -> tuple[tuple[int, ...], int]:
    """The shape of each of a step's chunks, which follow one another on the first axis, and how
    many there are."""
    units = step.sections[0].units
    if not step.shape or step.shape[0] % units or len(step.sections) > 1:
        return step.shape, 1
    return (step.shape[0] // units, *step.shape[1:]), units

"""The files of a torch.distributed.checkpoint (DCP).

Tensors are stored in chunks, each in a torch archive of its own. The archive's head and tail are
framing bytes. A reader loads whole chunks, so a tensor whose units are experts is stored as one
chunk per expert, and any other as a single chunk. Readers assemble chunks, or the slices of them
that their rank needs.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from streamconv.catalog.presets import Prefixes, Preset
from streamconv.checkpoint.manifest import Manifest
from streamconv.checkpoint.types import DIGEST
from streamconv.errors import PlanRefused, quoted
from streamconv.formats.dcp_metadata import DATA_SUFFIX, METADATA_FILE
from streamconv.formats.dcp_metadata_writer import build_metadata
from streamconv.formats.dcp_tensors import Chunk, StoredBytes, StoredTensor
from streamconv.formats.torch_archive import TORCH_DTYPES
from streamconv.formats.torch_archive_writer import archive_of_value, around_tensor
from streamconv.planning.shards import (
    FramingBytes,
    PlacedSteps,
    Shard,
    ShardPart,
    step_parts,
    unit_parts,
)
from streamconv.planning.steps import Step, Steps


@dataclass(frozen=True)
class Dcp:
    """Shards that torch.distributed.checkpoint reads, with a `.metadata` next to them."""

    prefixes: Prefixes
    preset: Preset | None
    config: Mapping[str, Any]
    """Content of config.json. It is stored in `.metadata`, because converting back needs it, and a
    DCP has no config.json."""
    name: str = "dcp"
    skip_reason: str = "a DCP folder holds nothing but weights"

    @property
    def facts(self) -> tuple[str, ...]:
        """The preset and the change of prefixes, if there are any."""
        preset = (f"preset {self.preset.name}",) if self.preset else ()
        renamed = (f"names {self.prefixes.hf}* as {self.prefixes.dcp}*",)
        return preset if self.prefixes.hf == self.prefixes.dcp else preset + renamed

    def shards(self, steps: Steps, max_shard_bytes: int) -> Iterator[Shard]:
        """Cut steps so that no tensor is in two files."""
        self._check_keys(steps)
        first = nbytes = count = 0
        for number in range(len(steps)):
            size = steps.nbytes(number)
            if number > first and nbytes + size > max_shard_bytes:
                yield self._shard(count, PlacedSteps(steps, range(first, number)))
                first, nbytes, count = number, 0, count + 1
            nbytes += size
        yield self._shard(count, PlacedSteps(steps, range(first, len(steps))))

    def _shard(self, number: int, steps: PlacedSteps) -> Shard:
        name = f"{self._folder}__0_{number}{DATA_SUFFIX}"
        nbytes = sum(part.nbytes for part in self.parts(Shard(name, steps, 0, steps.nbytes)))
        return Shard(name, steps, nbytes, steps.nbytes)

    @property
    def _folder(self) -> str:
        return f"{self.preset.folder}/" if self.preset else ""

    def _check_keys(self, steps: Steps) -> None:
        """Raise PlanRefused for a tensor that a DCP cannot hold, or not under a reversible key."""
        extras = self._extras()
        for number in range(len(steps)):
            name, dtype = steps.name(number), steps.dtype(number)
            key = self.prefixes.apply(name)
            if dtype not in TORCH_DTYPES:
                raise PlanRefused(
                    f"tensor {quoted(name)} is {dtype}, which torch has no dtype for",
                    "write it with --format safetensors",
                )
            if not self.prefixes.is_reversible(name):
                self._refuse_key(steps, name, key)
            if key in extras:
                raise PlanRefused(f"tensor {quoted(name)} would have the key {key!r}")

    def _refuse_key(self, steps: Steps, name: str, key: str) -> NoReturn:
        """Raise PlanRefused for a tensor whose key means another tensor."""
        other = self.prefixes.undo(key)
        if other in map(steps.name, range(len(steps))):
            raise PlanRefused(
                f"tensors {quoted(other)} and {quoted(name)} would both have the key {quoted(key)}",
                "choose other prefixes",
            )
        raise PlanRefused(
            f"tensor {quoted(name)} would have the key {quoted(key)} and come back from it as "
            f"{quoted(other)}",
            "choose prefixes that can be undone",
        )

    def count_chunks(self, steps: Steps) -> int:
        return sum(_chunk_shape(step)[1] for step in steps)

    def parts(self, shard: Shard) -> Iterator[ShardPart]:
        """Yield the archives of each step's chunks; in the first file, also those of the extras."""
        for number, step in enumerate(shard.steps):
            shape, count = _chunk_shape(step)
            head, tail = around_tensor(step.dtype, shape)
            for unit in range(count):
                yield FramingBytes(2 * number, len(head))
                if count == 1:
                    yield from step_parts(shard.steps, number)
                else:
                    yield from unit_parts(shard.steps, number, unit)
                yield FramingBytes(2 * number + 1, len(tail))
        for number, extra in enumerate(self._extras_in(shard).values()):
            yield FramingBytes(2 * len(shard.steps) + number, len(extra))

    def framing_bytes(self, shard: Shard, number: int) -> Iterator[bytes]:
        """Yield the head (2 k) or tail (2 k + 1) of step k's archives, or else an extra."""
        index, side = divmod(number, 2)
        if index < len(shard.steps):
            step = shard.steps[index]
            yield around_tensor(step.dtype, _chunk_shape(step)[0])[side]
        else:
            yield list(self._extras_in(shard).values())[number - 2 * len(shard.steps)]

    def _extras(self) -> Mapping[str, Any]:
        return self.preset.extras if self.preset else {}

    def _extras_in(self, shard: Shard) -> dict[str, bytes]:
        """Return the archives of the state dict's other values, which are in the first file."""
        if shard.name != f"{self._folder}__0_0{DATA_SUFFIX}":
            return {}
        return {key: archive_of_value(value) for key, value in self._extras().items()}

    def closing_files(
        self, shards: Sequence[Shard], manifest: Callable[[Mapping[str, bytes]], Manifest]
    ) -> Iterator[tuple[str, bytes]]:
        """Yield `.metadata`, which contains the manifest, and the preset's tracker file."""
        own = {
            "manifest": manifest({}).to_json(),
            "keys": {"hf_prefix": self.prefixes.hf, "dcp_prefix": self.prefixes.dcp},
            "config": self.config,
            "digest": DIGEST,
        }
        others: list[StoredBytes] = []
        for shard in shards[:1]:
            extras = self._extras_in(shard)
            position = shard.nbytes - sum(map(len, extras.values()))
            for key, content in extras.items():
                file = shard.name.removeprefix(self._folder)
                others.append(StoredBytes(key, (key,), file, position, len(content)))
                position += len(content)
        tensors = _StoredTensors(self, shards)
        yield f"{self._folder}{METADATA_FILE}", build_metadata(tensors, others, json.dumps(own))
        if self.preset:
            yield self.preset.tracker["name"], self.preset.tracker["text"].encode()

    def stored(self, shard: Shard) -> Iterator[StoredTensor]:
        """Yield the tensors of a shard as `.metadata` describes them."""
        position = 0
        file = shard.name.removeprefix(self._folder)
        for step in shard.steps:
            stored = self._stored(step, file, position)
            yield stored
            position += sum(chunk.nbytes for chunk in stored.chunks)

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


@dataclass(frozen=True)
class _StoredTensors(Iterable[StoredTensor]):
    """The tensors of all shards, made again each time that they are iterated over."""

    format: Dcp
    shards: Sequence[Shard]

    def __iter__(self) -> Iterator[StoredTensor]:
        return itertools.chain.from_iterable(map(self.format.stored, self.shards))


def _chunk_shape(step: Step) -> tuple[tuple[int, ...], int]:
    """Return the shape of a step's chunks, and their number along the first dimension."""
    units = step.sections[0].units
    if not step.shape or step.shape[0] % units or len(step.sections) > 1:
        return step.shape, 1
    return (step.shape[0] // units, *step.shape[1:]), units

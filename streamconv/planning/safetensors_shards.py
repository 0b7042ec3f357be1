"""The files of a safetensors checkpoint, named and cut as on the hub.

Each shard is a header and the bytes of its tensors. The header carries the record of layouts, so
that a single shard tells which layouts it has.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from streamconv.checkpoint.layout_record import METADATA_KEY, Record
from streamconv.checkpoint.tensor_names import natural_key
from streamconv.checkpoint.types import INDEX, MANIFEST
from streamconv.formats.safetensors import DTYPE_BITS, Entry, build_header
from streamconv.planning.shards import FramingBytes, Shard, ShardPart, step_parts, with_offsets
from streamconv.planning.steps import Step

FILENAME_PATTERN = "model{suffix}.safetensors"
DATA_ALIGNMENT = 4096
"""Multiple of bytes at which a shard's data begins: a page, so that direct I/O can read it."""


@dataclass(frozen=True, slots=True)
class Safetensors:
    """The format of hub checkpoints; its only framing bytes are the header."""

    record: Record
    """Layouts of the output, for the metadata of each shard."""
    name: str = "safetensors"
    skip_reason: str = ""
    facts: tuple[str, ...] = ()

    def shards(self, steps: Iterable[Step], max_shard_bytes: int) -> Iterator[Shard]:
        """Cut steps, in natural order of names, by huggingface_hub's own rules.

        In a shard, tensors with wide elements come first, so that each is aligned.
        """
        from huggingface_hub import split_state_dict_into_shards_factory

        by_name = {step.name: step for step in sorted(steps, key=lambda s: natural_key(s.name))}
        split = split_state_dict_into_shards_factory(
            by_name,
            get_storage_size=lambda step: step.nbytes,
            filename_pattern=FILENAME_PATTERN,
            max_shard_size=max_shard_bytes,
        )
        for file, names in split.filename_to_tensors.items():
            widest_first = sorted(
                (by_name[name] for name in names), key=lambda step: -DTYPE_BITS[step.dtype]
            )
            ordered = tuple(with_offsets(widest_first))
            data_bytes = sum(step.nbytes for step in ordered)
            yield Shard(file, ordered, len(self._header(ordered)) + data_bytes, data_bytes)

    def parts(self, shard: Shard) -> Iterator[ShardPart]:
        yield FramingBytes(0, shard.nbytes - shard.data_bytes)
        for step in shard.steps:
            yield from step_parts(step)

    def framing_bytes(self, shard: Shard, number: int) -> bytes:
        return self._header(shard.steps)

    def closing_files(
        self, shards: Sequence[Shard], manifest: Callable[[Mapping[str, bytes]], bytes]
    ) -> Iterator[tuple[str, bytes]]:
        """Yield the index, if there are several shards, and the manifest."""
        listed = {} if len(shards) == 1 else {INDEX: build_index(shards)}
        yield from listed.items()
        yield MANIFEST, manifest(listed)

    def _header(self, steps: Iterable[Step]) -> bytes:
        entries = (Entry(s.name, s.dtype, s.shape, s.offset, s.offset + s.nbytes) for s in steps)
        metadata = {"format": "pt", METADATA_KEY: json.dumps(self.record.to_json(), sort_keys=True)}
        return build_header(entries, metadata, DATA_ALIGNMENT)


def build_index(shards: Sequence[Shard]) -> bytes:
    """Return the content of the index: which shard holds each tensor."""
    weight_map = {step.name: shard.name for shard in shards for step in shard.steps}
    index = {
        "metadata": {"total_size": sum(shard.data_bytes for shard in shards)},
        "weight_map": dict(sorted(weight_map.items())),
    }
    return (json.dumps(index, indent=2) + "\n").encode("ascii")

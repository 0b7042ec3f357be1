"""The files of a safetensors checkpoint, named and cut as on the hub.

Each shard is a header and the bytes of its tensors. The header has the record of layouts, so that a
single shard is enough to know the layouts.
"""

import itertools
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO

from streamconv.catalog.companions import stem_of
from streamconv.checkpoint.layout_record import METADATA_KEY, Record
from streamconv.checkpoint.manifest import Manifest
from streamconv.checkpoint.types import INDEX, MANIFEST
from streamconv.errors import PlanRefused
from streamconv.formats.safetensors import DTYPE_BITS, LENGTH_BYTES, METADATA, Entry
from streamconv.formats.safetensors_writer import header_bytes, header_text
from streamconv.planning.shards import FramingBytes, PlacedSteps, Shard, ShardPart, step_parts
from streamconv.planning.steps import Step, Steps

FILENAME_PATTERN = "model{suffix}.safetensors"
DATA_ALIGNMENT = 4096
"""Multiple of bytes at which a shard's data begins: a page, so that direct I/O can read it."""
ALIGNMENT = 8
"""Multiple of bytes at which the widest element begins."""
INDEX_ROWS = 500
"""Rows of the index that are made at once."""


@dataclass(frozen=True, slots=True)
class Safetensors:
    """The format of hub checkpoints; its only framing bytes are the header."""

    record: Record
    """Layouts of the output, for the metadata of each shard."""
    name: str = "safetensors"
    skip_reason: str = ""
    facts: tuple[str, ...] = ()

    def shards(self, steps: Steps, max_shard_bytes: int) -> Iterator[Shard]:
        """Cut steps by huggingface_hub's rules.

        In a shard, tensors with wide elements come first, so that each is aligned. Before them come
        weights that are quantized as they are read, each right before its scales, so that it is
        read only once.

        Raises PlanRefused if a tensor is called `__metadata__`, the key of a header's metadata.
        """
        _check_names(steps)
        cuts = list(_cut(map(steps.nbytes, range(len(steps))), max_shard_bytes))
        for index, numbers in enumerate(cuts, 1):
            suffix = f"-{index:05d}-of-{len(cuts):05d}" if len(cuts) > 1 else ""
            placed = PlacedSteps(steps, _aligned(steps, numbers))
            text_bytes = sum(map(len, self._header_text(placed)))
            nbytes = header_bytes(text_bytes, DATA_ALIGNMENT) + placed.nbytes
            yield Shard(FILENAME_PATTERN.format(suffix=suffix), placed, nbytes, placed.nbytes)

    def count_chunks(self, steps: Steps) -> int:
        return 0

    def parts(self, shard: Shard) -> Iterator[ShardPart]:
        yield FramingBytes(0, shard.nbytes - shard.data_bytes)
        for index in range(len(shard.steps)):
            yield from step_parts(shard.steps, index)

    def framing_bytes(self, shard: Shard, number: int) -> Iterator[bytes]:
        left = shard.nbytes - shard.data_bytes - LENGTH_BYTES
        yield left.to_bytes(LENGTH_BYTES, "little")
        for text in self._header_text(shard.steps):
            yield text
            left -= len(text)
        yield b" " * left

    def closing_files(
        self, shards: Sequence[Shard], manifest: Callable[[Mapping[str, bytes]], Manifest]
    ) -> Iterator[tuple[str, bytes]]:
        """Yield the index, if there are several shards, and the manifest."""
        listed = {} if len(shards) == 1 else {INDEX: build_index(shards)}
        yield from listed.items()
        yield MANIFEST, b"".join(manifest(listed).encode())

    def _header_text(self, steps: Iterable[Step]) -> Iterator[bytes]:
        entries = (Entry(s.name, s.dtype, s.shape, s.offset, s.offset + s.nbytes) for s in steps)
        metadata = {"format": "pt", METADATA_KEY: json.dumps(self.record.to_json(), sort_keys=True)}
        return header_text(entries, metadata)


def _check_names(steps: Steps) -> None:
    with suppress(KeyError):
        steps.find(METADATA)
        raise PlanRefused(
            f"cannot write a tensor called {METADATA}: safetensors keeps a file's metadata under "
            "that name",
            "give it another name with --rename, or add --format dcp",
        )


def _cut(sizes: Iterable[int], most: int) -> "Iterator[array[int]]":
    """Yield the numbers of the tensors in each shard, as huggingface_hub's splitter cuts them.

    A tensor that is larger than a shard gets its own, which comes before the one being filled.

    Args:
        sizes: Bytes of each tensor.
        most: Bytes of a shard, at most.
    """
    filling, nbytes = array("q"), 0
    for number, size in enumerate(sizes):
        if size > most:
            yield array("q", [number])
            continue
        if nbytes + size > most:
            yield filling
            filling, nbytes = array("q"), 0
        filling.append(number)
        nbytes += size
    if filling:
        yield filling


def _aligned(steps: Steps, numbers: Iterable[int]) -> list[int]:
    """Return the numbers of the tensors of a shard in an order in which each is aligned."""

    def width(number: int) -> int:
        return -DTYPE_BITS[steps.dtype(number)]

    weights: dict[str, list[int]] = {}
    others: list[int] = []
    for number in numbers:
        if steps.is_encoded(number):
            weights.setdefault(stem_of(steps.name(number)), []).append(number)
        else:
            others.append(number)
    first: list[int] = []
    for parts in weights.values():
        if sum(map(steps.nbytes, parts)) % ALIGNMENT:
            others += parts
            continue
        # codes are the largest: scales that come after them are made with them
        largest_first = sorted(parts, key=steps.nbytes, reverse=True)
        ends = itertools.accumulate(map(steps.nbytes, largest_first))
        is_aligned = all(
            end * 8 % DTYPE_BITS[steps.dtype(number)] == 0
            for end, number in zip(ends, largest_first[1:], strict=False)
        )
        first += largest_first if is_aligned else sorted(parts, key=width)
    return first + sorted(others, key=lambda number: (width(number), number))


def build_index(shards: Sequence[Shard]) -> bytes:
    """Return the content of the index: which shard holds each tensor."""
    content = BytesIO()  # a join holds all parts until the end
    for text in _index_text(shards):
        content.write(text)
    return content.getvalue()


def _index_text(shards: Sequence[Shard]) -> Iterator[bytes]:
    """Yield the index in parts, as JSON that is indented by 2."""
    total = sum(shard.data_bytes for shard in shards)
    yield f'{{\n  "metadata": {{\n    "total_size": {total}\n  }},\n  "weight_map": {{'.encode()
    rows = sorted((step.name, shard.name) for shard in shards for step in shard.steps)
    comma = ""
    for start in range(0, len(rows), INDEX_ROWS):
        lines = (
            f"\n    {json.dumps(name)}: {json.dumps(file)}"
            for name, file in itertools.islice(rows, start, start + INDEX_ROWS)
        )
        yield f"{comma}{','.join(lines)}".encode("ascii")
        comma = ","
    yield b"\n  }\n}\n"

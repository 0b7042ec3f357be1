"""What a torch.distributed.checkpoint stores, and whether chunks are all of their tensor. Pure."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from streamconv.errors import BadCheckpoint, quoted


@dataclass(frozen=True, slots=True)
class Chunk:
    """A box of a tensor, and where its archive is."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    """Path below the checkpoint's folder."""
    offset: int
    """Bytes from the start of the file."""
    nbytes: int
    """Of the archive."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of the state dict."""

    key: str
    path: tuple[str, ...]
    """Where it is in the nested state dict."""
    dtype: str
    """A dtype of the safetensors format; what torch calls it where that has none."""
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]
    """Those that hold any of it, in the order of their offsets."""


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """Something else of the state dict, as an archive that is never opened."""

    key: str
    path: tuple[str, ...]
    file: str
    offset: int
    nbytes: int


def check_chunks(tensor: StoredTensor) -> None:
    """Refuse a tensor whose chunks lie outside of it, over one another, or leave a hole."""
    if [chunk.sizes for chunk in tensor.chunks] == [tensor.shape] and not any(
        tensor.chunks[0].offsets
    ):
        return
    what = f"tensor {quoted(tensor.key)} {list(tensor.shape)}"
    for chunk in tensor.chunks:
        inside = len(chunk.offsets) == len(chunk.sizes) == len(tensor.shape) and all(
            offset + extent <= size
            for offset, extent, size in zip(chunk.offsets, chunk.sizes, tensor.shape, strict=True)
        )
        if not inside:
            raise BadCheckpoint(f"{what}: its chunk {_box(chunk)} lies outside of it")
    overlap = next(_overlaps(tensor.chunks, tensor.shape), None)
    if overlap is not None:
        one, other = map(_box, overlap)
        raise BadCheckpoint(f"{what}: its chunks {one} and {other} overlap")
    there, whole = sum(math.prod(c.sizes) for c in tensor.chunks), math.prod(tensor.shape)
    if there != whole or not tensor.chunks:
        raise BadCheckpoint(
            f"{what}: its {len(tensor.chunks)} chunks hold {there} of {whole} elements: "
            "a chunk is missing"
        )


def _box(chunk: Chunk) -> str:
    return f"{list(chunk.sizes)} at {list(chunk.offsets)}"


def _overlaps(chunks: Sequence[Chunk], shape: tuple[int, ...]) -> Iterator[tuple[Chunk, Chunk]]:
    """Pairs of chunks that share an element: a sweep along the axis that most are cut on."""
    axes = range(len(shape))
    axis = max(axes, key=lambda a: len({chunk.offsets[a] for chunk in chunks}), default=None)
    if axis is None:
        yield from itertools.pairwise(chunks)
        return
    active: list[Chunk] = []
    for chunk in sorted(chunks, key=lambda chunk: chunk.offsets[axis]):
        active = [o for o in active if o.offsets[axis] + o.sizes[axis] > chunk.offsets[axis]]
        for other in active:
            if all(
                chunk.offsets[a] < other.offsets[a] + other.sizes[a]
                and other.offsets[a] < chunk.offsets[a] + chunk.sizes[a]
                for a in axes
            ):
                yield other, chunk
        active.append(chunk)

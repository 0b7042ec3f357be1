"""The contents of a torch.distributed.checkpoint (DCP), and a check that chunks fill their tensor.

StoredTensor  key "model.layers.0.weight", shape [4, 6]
  Chunk       2 x 6 elements at [0, 0]: __0_0.distcp, bytes 0 to 1186
  Chunk       2 x 6 elements at [2, 0]: __1_0.distcp, bytes 0 to 1186
StoredBytes   key "optimizer.lr": __0_0.distcp, bytes 1186 to 2210
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from streamconv.errors import BadCheckpoint, quoted

MAX_COMPARISONS = 256
"""Comparisons for each chunk of a tensor, on average: those of a square grid of 65,536 chunks."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A rectangular part of a tensor, and the location of its archive."""

    offsets: tuple[int, ...]
    """Its first element, on each axis of the tensor."""
    sizes: tuple[int, ...]
    """Its elements, on each axis."""
    file: str
    """Path below the checkpoint's folder."""
    offset: int
    """Bytes from the start of the file."""
    nbytes: int
    """Size of the archive."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of the state dict."""

    key: str
    path: tuple[str, ...]
    """Its keys in the nested state dict, outermost first."""
    dtype: str
    """A dtype of the safetensors format, or its name in torch if the format lacks it."""
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]
    """The chunks that are not empty, in the order of their offsets."""


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """A value of the state dict that is no tensor. What its archive holds is never read."""

    key: str
    path: tuple[str, ...]
    file: str
    offset: int
    nbytes: int


def check_chunks(tensor: StoredTensor) -> None:
    """Refuse a tensor unless its chunks are inside it, do not overlap, and leave no hole.

    Raises BadCheckpoint.
    """
    chunks, shape = tensor.chunks, tensor.shape
    if len(chunks) == 1 and chunks[0].sizes == shape and not any(chunks[0].offsets):
        return
    label = f"tensor {quoted(tensor.key)} {list(shape)}"
    for chunk in chunks:
        if not _is_inside(chunk, shape):
            raise BadCheckpoint(f"cannot read {label}: its chunk {_box(chunk)} lies outside of it")
    overlap = next(_overlaps(label, chunks, shape), None)
    if overlap is not None:
        one, other = map(_box, overlap)
        raise BadCheckpoint(f"cannot read {label}: its chunks {one} and {other} overlap")
    covered, total = sum(math.prod(chunk.sizes) for chunk in chunks), math.prod(shape)
    if covered != total or not chunks:
        raise BadCheckpoint(
            f"cannot read {label}: its {len(chunks)} chunks hold {covered} of {total} elements: "
            "a chunk is missing"
        )


def _box(chunk: Chunk) -> str:
    return f"{list(chunk.sizes)} at {list(chunk.offsets)}"


def _is_inside(chunk: Chunk, shape: tuple[int, ...]) -> bool:
    return len(chunk.offsets) == len(chunk.sizes) == len(shape) and all(
        offset + extent <= size
        for offset, extent, size in zip(chunk.offsets, chunk.sizes, shape, strict=True)
    )


def _overlaps(
    label: str, chunks: Sequence[Chunk], shape: tuple[int, ...]
) -> Iterator[tuple[Chunk, Chunk]]:
    """Yield the pairs of chunks that share an element.

    A sweep along the axis with the most cuts. A chunk is compared only with those before it that
    reach as far as its own first element on that axis: in a grid of n chunks, with sqrt(n) of them.

    Raises BadCheckpoint if that takes more than MAX_COMPARISONS for each chunk.
    """
    axes = range(len(shape))
    if not axes:  # all chunks of a scalar are the same element
        yield from itertools.pairwise(chunks)
        return
    axis = max(axes, key=lambda a: len({chunk.offsets[a] for chunk in chunks}))
    active: list[Chunk] = []
    left = MAX_COMPARISONS * len(chunks)
    for chunk in sorted(chunks, key=lambda chunk: chunk.offsets[axis]):
        left -= len(active)
        if left < 0:
            raise BadCheckpoint(
                f"cannot read {label}: its {len(chunks)} chunks are not cut along any axis",
                "save the checkpoint again: no program cuts a tensor like this",
            )
        active = [o for o in active if o.offsets[axis] + o.sizes[axis] > chunk.offsets[axis]]
        for other in active:
            if all(
                chunk.offsets[a] < other.offsets[a] + other.sizes[a]
                and other.offsets[a] < chunk.offsets[a] + chunk.sizes[a]
                for a in axes
            ):
                yield other, chunk
        active.append(chunk)

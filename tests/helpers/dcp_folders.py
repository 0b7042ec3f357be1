"""DCP folders made by torch's own classes, cut as any writer might, and read by them."""

import io
import itertools
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

Cuts = Sequence[Sequence[int]]
"""Of each axis, the positions at which a tensor is cut."""


def boxes(shape: Sequence[int], cuts: Cuts) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Offsets and sizes of the chunks that cuts make."""
    spans = [
        list(itertools.pairwise([0, *sorted(set(cut) - {0, n}), n]))
        for n, cut in zip(shape, cuts, strict=True)
    ]
    for box in itertools.product(*spans):
        yield tuple(a for a, _ in box), tuple(b - a for a, b in box)


def saved(tensor: torch.Tensor) -> bytes:
    """What `torch.save` makes of it, with no more than its own storage."""
    stream = io.BytesIO()
    torch.save(tensor.clone(memory_format=torch.contiguous_format), stream)
    return stream.getvalue()


def write_dcp(
    folder: Path,
    tensors: Mapping[str, tuple[torch.Tensor, Cuts]],
    values: Mapping[str, Any] | None = None,
    paths: Mapping[str, tuple[str, ...]] | None = None,
    files: int = 2,
) -> Metadata:
    """A checkpoint of these tensors, each cut, its chunks dealt out over files in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = [bytearray() for _ in range(files)]
    state: dict[str, Any] = {}
    storage: dict[MetadataIndex, _StorageInfo] = {}
    turn = itertools.cycle(range(files))

    def put(index: MetadataIndex, raw: bytes) -> None:
        file = next(turn)
        storage[index] = _StorageInfo(f"__{file}_0.distcp", len(contents[file]), len(raw))
        contents[file] += raw

    for key, (tensor, cuts) in tensors.items():
        chunks = []
        for offsets, sizes in boxes(tensor.shape, cuts):
            part = tensor[tuple(slice(a, a + n) for a, n in zip(offsets, sizes, strict=True))]
            put(MetadataIndex(key, offsets, len(chunks)), saved(part))
            chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
        properties = TensorProperties(dtype=tensor.dtype)
        state[key] = TensorStorageMetadata(properties, tensor.shape, chunks)
    for key, value in (values or {}).items():
        stream = io.BytesIO()
        torch.save(value, stream)
        put(MetadataIndex(key), stream.getvalue())
        state[key] = BytesStorageMetadata()
    metadata = Metadata(state, planner_data=paths, storage_data=storage, version="1.0.0")
    for number, content in enumerate(contents):
        (folder / f"__{number}_0.distcp").write_bytes(content)
    write_metadata(folder, metadata)
    return metadata


def stock(folder: Path) -> dict[str, Any]:
    """Load a DCP with torch alone, without any hint of its contents."""
    state: dict[str, Any] = {}
    _load_state_dict(
        state,
        storage_reader=dcp.FileSystemReader(folder),
        planner=_EmptyStateDictLoadPlanner(),
        no_dist=True,
    )
    return state


def write_metadata(folder: Path, metadata: Any) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))

"""The metadata of a lazy checkpoint, as the planners of torch.distributed.checkpoint read it.

A planner compares a state dict with the metadata, and asks for a box of each tensor that it finds.
It knows two kinds of entries: tensors, which consist of chunks, and bytes. A lazy checkpoint has no
bytes, so every key without a tensor is shown as bytes. Then the planner asks for all of these keys,
and they can be named in one error. If they had no entry, it would stop at the first.
"""

from itertools import accumulate, chain
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)

from streamconv.checkpoint.tied_weights import tied_embeddings
from streamconv.lazy.arrays import array_shape
from streamconv.lazy.checkpoint import LazyCheckpoint
from streamconv.lazy.load_errors import shape_error
from streamconv.lazy.tensor import LazyTensor


class Keys(dict[str, TensorStorageMetadata | BytesStorageMetadata]):
    """The metadata of a checkpoint for each key of a state dict; bytes for keys without a tensor.

    A tied head that the checkpoint leaves out has the metadata of its embeddings.
    """

    def __init__(self, lazy: LazyCheckpoint, prefix: str) -> None:
        """Describe every tensor of a checkpoint.

        Args:
            lazy: The checkpoint.
            prefix: Begins each key of its tensors in the state dict.

        Raises:
            UsageError: torch has no dtype for a tensor.
        """
        super().__init__()
        for name, tensor in lazy.items():
            self[prefix + name] = _tensor_metadata(prefix + name, tensor)
        self.names = list(lazy)
        """The names of all tensors."""
        self._lazy = lazy
        self._prefix = prefix

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> TensorStorageMetadata | BytesStorageMetadata:
        name = self._name(key)
        return BytesStorageMetadata() if name is None else _tensor_metadata(key, self._lazy[name])

    def tensor(self, key: str) -> LazyTensor:
        """Return the tensor for a key of the state dict. Raises KeyError."""
        name = self._name(key)
        if name is None:
            raise KeyError(key)
        return self._lazy[name]

    def facts(self) -> list[list[str]]:
        """Return key, dtype and shape of every tensor, as text."""
        return [
            [key, str(entry.properties.dtype), str(entry.size)]
            for key, entry in self.items()
            if isinstance(entry, TensorStorageMetadata)
        ]

    def _name(self, key: str) -> str | None:
        """Return the name of the tensor for a key of the state dict, or None."""
        if not key.startswith(self._prefix):
            return None
        name = key.removeprefix(self._prefix)
        if name in self._lazy:
            return name
        return tied_embeddings(self._lazy.source.config, name, self.names)


def metadata_of(keys: Keys) -> Metadata:
    """Return the metadata of a checkpoint with these keys."""
    return Metadata(state_dict_metadata=keys)


def _tensor_metadata(key: str, tensor: LazyTensor) -> TensorStorageMetadata:
    """Return the size, the dtype and the chunks of a tensor: its experts, if it has several."""
    size = array_shape(tensor.get_dtype(), tensor.shape)
    lengths = tensor.units if size[1:] else size
    begins = accumulate(chain((0,), lengths))
    inner = [0] * (len(size) - 1)
    chunks = [
        ChunkStorageMetadata(torch.Size([begin, *inner]), torch.Size([length, *size[1:]]))
        for begin, length in zip(begins, lengths, strict=False)
    ]
    if not size:
        chunks = [ChunkStorageMetadata(torch.Size(()), torch.Size(()))]
    shape: Any = _Shape(size)
    shape.key = key
    return TensorStorageMetadata(TensorProperties(dtype=tensor.dtype), shape, chunks)


class _Shape(tuple[int, ...]):
    """A shape that is compared with that of a tensor in a state dict.

    A planner stops at the first one that differs. Its own error would not say what to do.
    """

    key: str

    def __ne__(self, other: object) -> bool:
        """Return False if the shapes agree. Raises BadCheckpoint if they do not."""
        if self == other:
            return False
        raise shape_error(self.key, self, other)

    def numel(self) -> int:
        """Return the number of elements, as `torch.Size` does."""
        return torch.Size(self).numel()

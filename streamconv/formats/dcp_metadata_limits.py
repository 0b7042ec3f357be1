"""What reading a `.metadata` may take: bytes of the file, values in it, and memory."""

from typing import Any

from streamconv.errors import BadCheckpoint
from streamconv.formats.dcp_metadata import SIZE
from streamconv.formats.torch_archive import sizes

MAX_METADATA_BYTES = 256_000_000
"""The most bytes of a `.metadata`. That of 70,000 tensors has 20 MB."""
NODES_PER_BYTE = 2
"""The most values that are looked at, for each byte of a `.metadata`.

A pickle can refer to one list from any number of places, in two bytes each. In a file that torch
wrote, each value takes several bytes."""
CHUNK_NODES = 8
"""Values that a chunk counts as, in addition to its offsets and sizes."""

TENSOR_BYTES, CHUNK_BYTES = 800, 1150
"""Bytes of memory at the peak of reading, for each tensor and each chunk, with the file itself."""
FOREIGN_RATIO = 12
"""The same for each byte of a `.metadata` that torch wrote: it may have a path for each key, and
more in it than tensors and chunks."""


def reading_bytes(tensors: int, chunks: int) -> int:
    """Return the bytes of memory that reading a `.metadata` of streamconv takes at its peak."""
    return tensors * TENSOR_BYTES + chunks * CHUNK_BYTES


def foreign_reading_bytes(nbytes: int) -> int:
    """Return the same for a `.metadata` of `nbytes` that another program wrote."""
    return nbytes * FOREIGN_RATIO


class Budget:
    """The number of values that may still be looked at, so that time is linear in the bytes."""

    def __init__(self, nbytes: int, label: str) -> None:
        self._left = NODES_PER_BYTE * nbytes
        self._label = label

    def spend(self, nodes: int) -> None:
        """Count values that are looked at. Raises BadCheckpoint if there are too many."""
        self._left -= nodes
        if self._left < 0:
            raise BadCheckpoint(
                f"cannot read {self._label}: it repeats its lists: more values than "
                f"{NODES_PER_BYTE} for each of its bytes",
                "check where the file comes from; no program that saves checkpoints writes this",
            )

    def sizes_in(self, value: Any) -> tuple[int, ...]:
        """Return the numbers in a `torch.Size`, which count."""
        if value.name != SIZE or len(value.args) != 1:
            raise TypeError
        found = sizes(value.args[0])
        self.spend(len(found))
        return found

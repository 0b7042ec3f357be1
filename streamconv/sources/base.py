"""Where checkpoints come from. A source is opened into a Checkpoint and then read by offset."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from streamconv.checkpoint.types import Checkpoint, OtherFile, TensorInfo


@dataclass(frozen=True, slots=True)
class Read:
    """A tensor's bytes from `start`, as many as `buffer` has room for."""

    info: TensorInfo
    start: int
    buffer: memoryview


class Source(Protocol):
    """What a conversion reads from; safe to use from several threads at once."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint as its headers describe it."""

    def read(self, reads: Sequence[Read]) -> None:
        """Fill the buffers. Reads of one batch may be done in any order, and neighbours at once.

        Raises IOFailed where reading fails, SourceChanged where the source is another.
        """

    def read_other(self, other: OtherFile, buffer: memoryview, start: int) -> int:
        """Read a file without tensors from `start`; returns the bytes read, 0 at its end."""

    def check_unchanged(self) -> None:
        """Raises SourceChanged where a file that was read is not what it was when planned."""

    def close(self) -> None:
        """Let go of all files."""

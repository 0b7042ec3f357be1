"""Where checkpoints come from. A source is opened into a Checkpoint and then read by offset."""

from typing import Protocol

from streamconv.checkpoint import Checkpoint, OtherFile, TensorInfo


class Source(Protocol):
    """What a conversion reads from; safe to use from several threads at once."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint as its headers describe it."""

    def read_into(self, info: TensorInfo, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the tensor's bytes from `start`.

        Raises IOFailed where reading fails, BadCheckpoint where the source has changed.
        """

    def read_other(self, other: OtherFile, buffer: memoryview, start: int) -> int:
        """Read a file without tensors from `start`; returns the bytes read, 0 at its end."""

    def close(self) -> None:
        """Let go of all files."""

"""A view of a zip archive: its two ends are read at the start, the rest when it is needed."""

from collections.abc import Callable

from streamconv.errors import BadCheckpoint

WINDOW_BYTES = 1024
"""Bytes of each end of an archive that are read at the start. What torch writes there fits."""

ReadAt = Callable[[int, int], bytes]
"""Returns a number of bytes from an offset in the archive: `read(offset, count)`. Fewer bytes only
at the end of the archive."""


class Window:
    """An archive whose two ends are in memory. The rest is read when it is needed."""

    def __init__(self, read: ReadAt, nbytes: int, label: str) -> None:
        """Read both ends of an archive of `nbytes`; `label` names it in errors.

        Raises BadCheckpoint if it ends before.
        """
        self._read = read
        self._label = label
        self.nbytes = nbytes
        self._tail_at = max(nbytes - WINDOW_BYTES, 0)
        self._tail = self._read_all(self._tail_at, min(nbytes, WINDOW_BYTES))
        self._head = self._read_all(0, WINDOW_BYTES) if self._tail_at else self._tail

    def bytes_at(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset`. Raises BadCheckpoint if the archive lacks them."""
        end = offset + count
        if not 0 <= offset <= end <= self.nbytes:
            raise self.refusal(f"bytes {offset} to {end} are outside of it")
        if end <= len(self._head):
            return self._head[offset:end]
        if offset >= self._tail_at:
            return self._tail[offset - self._tail_at : end - self._tail_at]
        return self._read_all(offset, count)

    def _read_all(self, offset: int, count: int) -> bytes:
        """Read bytes of the archive. Its file may have been cut since its size was known."""
        found = self._read(offset, count)
        if len(found) < count:
            raise self.refusal(
                f"it ended at byte {offset + len(found)} of {self.nbytes}: it was cut meanwhile"
            )
        return found

    def refusal(self, fact: str) -> BadCheckpoint:
        """Build the error for an archive that is not as it should be."""
        return BadCheckpoint(f"cannot read {self._label}: not a tensor of torch.save: {fact}")

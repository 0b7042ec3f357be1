"""The bytes of each shard that a comparison has seen."""

from collections import Counter
from collections.abc import Iterator

from streamconv.checkpoint.types import Checkpoint
from streamconv.verification.result import FileVerified, VerifyProgress


class ComparedShards:
    """Adds up progress, and says when a shard is compared to its end."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._totals = dict.fromkeys((file.name for file in checkpoint.files), 0)
        """Bytes of the tensors of each shard that is not compared to its end yet."""
        for info in checkpoint.tensors.values():
            self._totals[info.file] += info.nbytes
        self._done = Counter[str]()

    def add(self, progress: VerifyProgress) -> Iterator[FileVerified]:
        """Count bytes that were compared. Yields their shard if they were its last ones."""
        name = progress.file
        self._done[name] += progress.nbytes
        if progress.nbytes and self._done[name] == self._totals.get(name):
            yield FileVerified(name, self._done[name], self._totals.pop(name))

    def rest(self) -> Iterator[FileVerified]:
        """Yield the shards that were compared in part or not at all. Call it after all `add`s."""
        for name, total in self._totals.items():
            if total:
                yield FileVerified(name, self._done[name], total)

"""Shards while they are written, by several workers and in any order.

Each is opened at its first byte, and made durable at its last.
"""

import threading
from contextlib import suppress
from pathlib import Path

from streamconv.planning.plan import Piece, Plan
from streamconv.sinks.file_copy import make_folders
from streamconv.sinks.journal import Finished
from streamconv.sinks.journal_files import Journals
from streamconv.system.file_ops import Files


class OpenShard:
    """A shard that is being written."""

    def __init__(self, files: Files, fd: int, size: int) -> None:
        self._files = files
        self._fd = fd
        self._missing = size
        self._lock = threading.Lock()

    def write(self, offset: int, data: memoryview) -> bool:
        """Write a run; true where nothing is missing any more."""
        self._files.write(self._fd, data, offset)
        with self._lock:
            self._missing -= len(data)
            return self._missing == 0

    def finish(self) -> None:
        """Make the shard durable."""
        try:
            self._files.sync(self._fd)
        finally:
            self.close()

    def close(self) -> None:
        self._files.close(self._fd)


class Shards:
    """The shards of `plan` in `folder`. What is finished is added to `finished` and the journal."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        journals: Journals,
        finished: dict[int, Finished],
        files: Files,
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._journals = journals
        self._finished = finished
        self._files = files
        self._lock = threading.Lock()
        self._open: dict[int, OpenShard] = {}
        self._failed: dict[int, OSError] = {}
        self._rows: dict[int, dict[int, str]] = {}

    def name(self, number: int) -> str:
        """The file of a shard."""
        return self._plan.shards[number].name

    def record_digest(self, piece: Piece, digest: str) -> None:
        """See `Sink`."""
        with self._lock:
            rows = self._rows.setdefault(piece.shard, {})
            rows[piece.offset] = f"{piece.nbytes} {digest}"

    def write(self, number: int, offset: int, data: memoryview) -> bool:
        """See `Sink`; raises OSError."""
        with self._lock:
            if number not in self._open:
                self._open[number] = self._create(number)
        if not self._open[number].write(offset, data):
            return False
        with self._lock:
            full = self._open.pop(number)
            rows = self._rows.pop(number, {})
        path = self._folder / self.name(number)
        try:
            full.finish()
            self._files.sync_folder(path.parent)
            size = self._plan.shards[number].nbytes
            done = Finished(size, tuple(rows[at] for at in sorted(rows)))
            self._journals.add(self.name(number), done)
        except BaseException:
            with suppress(OSError):
                self._files.unlink(path)
            raise
        self._finished[number] = done
        return True

    def _create(self, number: int) -> OpenShard:
        """A new shard; where that has failed once, it fails alike for every worker."""
        if number in self._failed:
            raise self._failed[number]
        try:
            make_folders(self._files, self._folder, self.name(number))
            path = self._folder / self.name(number)
            self._files.unlink(path)
            size = self._plan.shards[number].nbytes
            return OpenShard(self._files, self._files.create(path, size), size)
        except OSError as error:
            self._failed[number] = error
            raise

    def close(self) -> list[Path]:
        """Close what is open; returns the shards that are not finished."""
        with self._lock:
            for shard in self._open.values():
                with suppress(OSError):
                    shard.close()
            unfinished, self._open = list(self._open), {}
        return [self._folder / self.name(number) for number in unfinished]

"""Shards while they are written, by several workers and in any order of their bytes.

A shard is created at its first byte, in its full size. At its last byte it is made durable, then
recorded in the journal. A crash in between leaves a file that the journal does not know; the next
run removes it, or writes it again.
"""

import threading
from array import array
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path

from streamconv.checkpoint.file_records import PieceRows, piece_row
from streamconv.planning.plan import Piece, Plan
from streamconv.sinks.file_copy import make_folders
from streamconv.sinks.journal import Finished
from streamconv.sinks.journal_files import OpenJournal
from streamconv.system.file_ops import Files


class OpenShard:
    """A shard that is being written."""

    def __init__(self, files: Files, fd: int, size: int) -> None:
        """Write to the new file `fd`, which is complete with `size` bytes."""
        self._files = files
        self._fd = fd
        self._missing = size
        self._lock = threading.Lock()

    def write(self, offset: int, data: memoryview) -> bool:
        """Write `data` at `offset`; returns True if these were the last missing bytes."""
        self._files.write(self._fd, data, offset)
        with self._lock:
            self._missing -= len(data)
            return self._missing == 0

    def finish(self) -> None:
        """Make the shard durable, and close it."""
        try:
            self._files.sync(self._fd)
        finally:
            self.close()

    def close(self) -> None:
        self._files.close(self._fd)


class _Digests:
    """Bytes and digests of the pieces of a shard, packed: one of terabytes has 100,000 pieces."""

    def __init__(self) -> None:
        self._offsets = array("Q")
        self._sizes = array("Q")
        self._digests = bytearray()

    def add(self, piece: Piece, digest: str) -> None:
        """Add a piece, in any order; of a piece that was added before, the new digest counts."""
        self._offsets.append(piece.offset)
        self._sizes.append(piece.nbytes)
        self._digests += bytes.fromhex(digest)

    def rows(self) -> PieceRows:
        """Return the rows of the pieces in the order of their offsets."""
        last = {offset: number for number, offset in enumerate(self._offsets)}
        numbers = (last[offset] for offset in sorted(last))
        return PieceRows(
            piece_row(self._sizes[n], self._digests[16 * n : 16 * n + 16].hex()) for n in numbers
        )


class Shards:
    """All shards that one part writes. Safe to use from several threads."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        journal: OpenJournal,
        finished: MutableMapping[int, Finished],
        files: Files,
    ) -> None:
        """Write the shards of `plan` to `folder`.

        Args:
            plan: The conversion.
            folder: The partial folder.
            journal: Records every shard that is finished.
            finished: The shards that are finished, by number; the new ones are added.
            files: The file operations.
        """
        self._plan = plan
        self._folder = folder
        self._journal = journal
        self._finished = finished
        self._files = files
        self._lock = threading.Lock()
        self._open: dict[int, OpenShard] = {}
        self._errors: dict[int, OSError] = {}
        self._digests: dict[int, _Digests] = {}
        """Those of each open shard."""

    def name(self, number: int) -> str:
        """Return the file name of a shard."""
        return self._plan.shards[number].name

    def record_digest(self, piece: Piece, digest: str) -> None:
        """Record a digest, see `OpenOutput`."""
        with self._lock:
            if piece.shard not in self._digests:
                self._digests[piece.shard] = _Digests()
            self._digests[piece.shard].add(piece, digest)

    def write(self, number: int, offset: int, data: memoryview) -> bool:
        """Write contiguous bytes, see `OpenOutput`. Raises OSError."""
        with self._lock:
            if number not in self._open:
                self._open[number] = self._create(number)
        if not self._open[number].write(offset, data):
            return False
        with self._lock:
            shard = self._open.pop(number)
            digests = self._digests.pop(number, None) or _Digests()
        self._finish(number, shard, digests)
        return True

    def _finish(self, number: int, shard: OpenShard, digests: _Digests) -> None:
        """Make a shard durable and record it; on any error, remove its file."""
        path = self._folder / self.name(number)
        try:
            shard.finish()
            self._files.sync_folder(path.parent)
            size = self._plan.shards[number].nbytes
            finished = Finished(size, digests.rows())
            self._journal.add(self.name(number), finished)
        except BaseException:
            with suppress(OSError):
                self._files.unlink(path)
            raise
        self._finished[number] = finished.without_pieces()

    def _create(self, number: int) -> OpenShard:
        """Create the file of a shard; if that has failed once, raise the same error again."""
        if number in self._errors:
            raise self._errors[number]
        try:
            make_folders(self._files, self._folder, self.name(number))
            path = self._folder / self.name(number)
            self._files.unlink(path)
            size = self._plan.shards[number].nbytes
            return OpenShard(self._files, self._files.create(path, size), size)
        except OSError as error:
            self._errors[number] = error
            raise

    def close(self) -> list[Path]:
        """Close the open shards; returns their paths, as they are not finished."""
        with self._lock:
            for shard in self._open.values():
                with suppress(OSError):
                    shard.close()
            unfinished, self._open = list(self._open), {}
        return [self._folder / self.name(number) for number in unfinished]

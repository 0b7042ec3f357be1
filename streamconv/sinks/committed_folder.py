"""The output of a run whose result is at the target already: only clean-up is left.

A run that dies between the rename of its commit and the removal of its last file leaves the result
at the target, and files of its own next to it. A run with --resume, and `finish`, then write
nothing: they remove the former target and the journals, as the commit would have done.
"""

from collections.abc import Generator, Mapping
from pathlib import Path

from streamconv.planning.plan import Piece
from streamconv.sinks.base import HashEvent
from streamconv.sinks.journal import Finished
from streamconv.sinks.os_errors import map_os_errors
from streamconv.sinks.workspace import RunWorkspace
from streamconv.sources.base import Source


class CommittedFolder:
    """The open output for a committed result. See `OpenOutput` for what each method promises."""

    def __init__(self, finished: Mapping[int, Finished], workspace: RunWorkspace) -> None:
        """Take over a workspace whose lock is held.

        Args:
            finished: All shards of the result, by number.
            workspace: The files of the run next to the target.
        """
        self._finished = finished
        self._workspace = workspace

    @property
    def finished(self) -> Mapping[int, Finished]:
        return self._finished

    def save_request(self, request: bytes) -> None:
        """Save nothing: there is nothing left to finish after this run."""

    def record_digest(self, piece: Piece, digest: str) -> None:
        raise AssertionError("every shard is finished")

    def write(self, shard: int, offset: int, data: memoryview) -> bool:
        raise AssertionError("every shard is finished")

    def release(self) -> None:
        self._workspace.lock.release()

    def complete(self, source: Source) -> Generator[HashEvent, None, Path]:
        source.check_unchanged()
        yield from ()
        return self._workspace.paths.target

    def commit(self) -> None:
        with map_os_errors(self._workspace.paths.target):
            self._workspace.finish_commit(is_earlier_run=True)
        self._workspace.lock.release()

    def abort(self, *, keep: bool = True) -> None:
        """Keep everything as it is: the next run with --resume cleans up."""
        self._workspace.lock.release()

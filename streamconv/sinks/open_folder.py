"""A checkpoint folder while it is written: shards first, then all other files, then the commit."""

from collections.abc import Generator, Mapping
from contextlib import suppress
from pathlib import Path

from streamconv.catalog.checkpoint_files import CONFIG
from streamconv.planning.manifest import closing_files
from streamconv.planning.plan import Piece, Plan
from streamconv.sinks.base import HashEvent
from streamconv.sinks.file_copy import copy_other, sha256_of, write_edited
from streamconv.sinks.journal import Finished
from streamconv.sinks.journal_files import OpenJournal
from streamconv.sinks.os_errors import map_os_errors
from streamconv.sinks.resume import all_pieces
from streamconv.sinks.shard_files import Shards
from streamconv.sinks.workspace import RunWorkspace
from streamconv.sources.base import Source
from streamconv.system.buffers import return_freed_memory
from streamconv.system.cores import cores


class OpenFolder:
    """The open output of a `CheckpointFolder`. See `OpenOutput` for what each method promises."""

    def __init__(
        self,
        plan: Plan,
        finished: Mapping[int, Finished],
        workspace: RunWorkspace,
        journal: OpenJournal,
        *,
        modes: tuple[int, int] | None,
        sha256: bool,
        parts: int = 1,
    ) -> None:
        """Take over a prepared folder.

        Args:
            plan: The conversion.
            finished: The shards of earlier runs, by number.
            workspace: The partial folder and everything next to it; its lock is held.
            journal: The journal of this part.
            modes: Permissions of folders and files; None for those of the umask.
            sha256: Add the SHA-256 of every file to the manifest.
            parts: How many parts share the conversion, if it is known.
        """
        self._plan = plan
        self._finished = {number: done.without_pieces() for number, done in finished.items()}
        self._workspace = workspace
        self._partial = workspace.partial
        self._files = workspace.files
        self._journal = journal
        self._shards = Shards(plan, self._partial, journal, self._finished, self._files)
        self._modes = modes
        self._sha256 = sha256
        self._parts = parts
        self._paths: dict[int, Path] = {}
        """The path of each shard, kept because making it takes a while and every write needs it."""
        self._is_committed = False

    @property
    def finished(self) -> Mapping[int, Finished]:
        return self._finished

    def save_request(self, request: bytes) -> None:
        with self._errors(self._partial):
            self._workspace.save_request(request)

    def record_digest(self, piece: Piece, digest: str) -> None:
        self._shards.record_digest(piece, digest)

    def write(self, shard: int, offset: int, data: memoryview) -> bool:
        path = self._paths.get(shard)
        if path is None:
            path = self._paths[shard] = self._partial / self._shards.name(shard)
        with self._errors(path):
            return self._shards.write(shard, offset, data)

    def release(self) -> None:
        if self._modes is not None:
            with suppress(OSError):  # then `finish` sets them, or says why it cannot
                self._workspace.partial_folder.set_shard_modes(self._modes[1])
        self._journal.close()
        self._workspace.lock.release()
        self._workspace.leftover_note = (
            f"{len(self._finished)} of {len(self._plan.shards)} shards are finished in "
            f"{self._partial}"
        )

    def complete(self, source: Source) -> Generator[HashEvent, None, Path]:
        plan = self._plan
        with self._errors(self._partial):
            journals, parts = self._workspace.journals, self._parts
            pieces = all_pieces(plan, journals, self._partial, self._files, parts)
            self._workspace.partial_folder.keep_only(plan, (shard.name for shard in plan.shards))
        copied = self._copy_others(source)
        source.check_unchanged()
        with self._errors(self._partial):
            sha256 = (yield from self._sha256_of_all(copied)) if self._sha256 else None
            for name, content in closing_files(plan, pieces, copied, sha256):
                self._workspace.partial_folder.write_file(name, content)
            if self._modes is not None:
                self._workspace.partial_folder.set_modes(*self._modes)
            self._workspace.partial_folder.sync_folders()
            self._journal.close()
            self._workspace.journals.move()
        return self._partial

    def _copy_others(self, source: Source) -> dict[str, tuple[int, str]]:
        """Copy the source's other files; returns size and digest of each, by name.

        config.json has to be the one that the plan was made from, edited or not.
        """
        copied = {}
        edited, planned = self._plan.edited, self._plan.checkpoint.config_text
        for other in self._plan.copied:
            to = (self._files, self._partial, source, other)
            with self._errors(self._partial / other.name):
                if other.name in edited or (other.name == CONFIG and planned):
                    content = edited.get(other.name, planned)
                    copied[other.name] = write_edited(*to, planned, content)
                else:
                    copied[other.name] = copy_other(*to)
        return copied

    def _sha256_of_all(
        self, copied: Mapping[str, object]
    ) -> Generator[HashEvent, None, dict[str, str]]:
        """Read shards and copied files back; returns the SHA-256 of each, by name."""
        names = [*(shard.name for shard in self._plan.shards), *copied]
        jobs = min(self._plan.memory.jobs, cores())
        return_freed_memory()  # which the workers have left
        return (yield from sha256_of(self._files, self._partial, names, jobs))

    def commit(self) -> None:
        workspace = self._workspace
        with map_os_errors(workspace.paths.target):
            try:
                workspace.replacement.commit(self._partial)
                self._is_committed = True
            except BaseException:
                self._is_committed = not self._files.exists(self._partial)
                raise
            workspace.leftover_note = f"the result is complete at {workspace.paths.target}"
            workspace.finish_commit()
        workspace.lock.release()

    def abort(self, *, keep: bool = True) -> None:
        unfinished = self._shards.close()
        self._journal.close()
        if not self._is_committed:
            with suppress(OSError):
                for path in unfinished:
                    self._files.unlink(path)
            self._workspace.leave(self._plan, self._finished, keep=keep)
        self._workspace.lock.release()
        if not self._is_committed:
            self._workspace.remove_unused(self._plan)
        self._workspace.parents.remove()

    def _errors(self, path: Path) -> map_os_errors:
        return map_os_errors(path, self._bytes_left, self._workspace.next_run)

    def _bytes_left(self) -> int:
        return bytes_left(self._plan, self._finished)


def bytes_left(plan: Plan, finished: Mapping[int, Finished]) -> int:
    """Return the bytes that are still to be written."""
    return plan.write_bytes - sum(done.size for done in finished.values())

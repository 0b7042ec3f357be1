"""A checkpoint folder, built beside its place and moved there at the end.

Everything is written into `DST.streamconv-partial`, each file and the entry of each file made
durable; a journal in there says which shards are finished. The commit is one rename of that
folder. So nothing that looks like a checkpoint stands at DST until it is one, and a run that
was stopped, however it was, can be gone on with.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from streamconv.planning.manifest import closing_files
from streamconv.planning.partition import Partition
from streamconv.planning.plan import Piece, Plan
from streamconv.sinks.file_copy import copy_other, make_folders, sha256_of
from streamconv.sinks.journal import Finished
from streamconv.sinks.journal_files import Journals
from streamconv.sinks.os_errors import map_os_errors
from streamconv.sinks.preflight import PARTIAL_SUFFIX, check_location, check_room
from streamconv.sinks.replace import TargetReplacement
from streamconv.sinks.resume import ResumeState
from streamconv.sinks.run_lock import Lock
from streamconv.sinks.shard_files import Shards
from streamconv.sources.base import Source
from streamconv.system.file_ops import Files
from streamconv.system.linux_file_ops import system_files
from streamconv.system.resources import cores


class CheckpointFolder:
    """The folder at `target`.

    `overwrite` replaces one that is not empty, `resume` goes on where an earlier run stopped.
    `modes` are the permissions of its folders and files, where the umask's are not wanted;
    `sha256` reads every file once more for a digest that the hub shows as well.
    """

    def __init__(
        self,
        target: str | Path,
        *,
        overwrite: bool = False,
        resume: bool = False,
        modes: tuple[int, int] | None = None,
        sha256: bool = False,
        part: Partition | None = None,
        files: Files | None = None,
    ) -> None:
        self.target = Path(os.path.abspath(target))
        self.partial = self.target.with_name(self.target.name + PARTIAL_SUFFIX)
        self.leftover_note = ""
        """After `abort`: what is finished, and how to go on; empty where nothing is left."""
        self._resume = resume
        self._modes = modes
        self._sha256 = sha256
        self._part = part or Partition()
        self._files = files or system_files()
        self._standing = TargetReplacement(self.target, overwrite, self._files)
        self._lock = Lock(self.target, self._part, self._files)
        self._journals = Journals(self.target, self.partial, self._part.number, self._files)
        self._earlier = ResumeState(
            self.partial,
            self._journals,
            self._part,
            self._files,
            overwrite=overwrite,
            resume=resume,
        )
        self._plan: Plan | None = None
        self._building = False
        self._shards: Shards | None = None
        self._finished: dict[int, Finished] = {}

    # before the first byte

    def check(self, plan: Plan, source: str) -> Mapping[int, Finished]:
        """Refuse a place that cannot be used, before anything is written.

        Returns the shards that are finished already. Raises OutputExists, NoSpace or IOFailed.
        """
        with map_os_errors(self.target):
            check_location(self.target, source, self._files)
            self._lock.check()
            self._standing.check(self._result_stands())
            finished = self._earlier.finished(plan)
            left = _bytes_left(plan, finished)
            check_room(plan, left, self.target.parent, self._earlier.reclaimed(finished))
        return finished

    def _result_stands(self) -> bool:
        """Whether what is at the place is the result of a run that died right behind."""
        return not self._files.exists(self.partial) and bool(self._journals.moved())

    def prepare(self, plan: Plan) -> Mapping[int, Finished]:
        self._plan = plan
        try:
            with map_os_errors(self.target):
                check_location(self.target, plan.checkpoint.location, self._files)
                self._standing.make_parents()
                self._lock.take()
                self._standing.recover(self._result_stands())
            self._finished = dict(self.check(plan, plan.checkpoint.location))
            with map_os_errors(self.partial, self._bytes_left):
                if self._files.exists(self.partial) and not self._resume:
                    self._files.remove_tree(self.partial)
                self._building = True
                with suppress(FileExistsError):
                    self._files.make_folder(self.partial)
                self._files.sync_folder(self.partial.parent)
                self._journals.begin(plan, self._finished)
                self._shards = Shards(
                    plan, self.partial, self._journals, self._finished, self._files
                )
                if self._part.of == 1:
                    self._clear(self._finished)
        except BaseException:
            self.abort()
            raise
        return self._finished

    def _clear(self, shards: Iterable[int]) -> None:
        """Remove from the partial folder all but these shards and the journals."""
        assert self._plan is not None
        kept = {self.partial / self._plan.shards[number].name for number in shards}
        kept.update(self._journals.paths())
        for path in self._files.walk(self.partial):
            if path not in kept:
                self._files.unlink(path)

    # the shards

    def record_digest(self, piece: Piece, digest: str) -> None:
        self._started().record_digest(piece, digest)

    def write(self, shard: int, offset: int, data: memoryview) -> bool:
        shards = self._started()
        with map_os_errors(self.partial / shards.name(shard), self._bytes_left):
            return shards.write(shard, offset, data)

    def _started(self) -> Shards:
        assert self._shards is not None, "prepare comes first"
        return self._shards

    def _bytes_left(self) -> int:
        assert self._plan is not None
        return _bytes_left(self._plan, self._finished)

    # the end

    def save_request(self, command: bytes) -> None:
        """Keep what this conversion was asked for, until it is committed, for who closes it."""
        with map_os_errors(self.partial):
            self._journals.save_request(command)

    def release(self) -> None:
        assert self._plan is not None, "prepare comes first"
        self._journals.close()
        self._lock.release()
        self.leftover_note = (
            f"{len(self._finished)} of {len(self._plan.shards)} shards are finished, in "
            f"{self.partial}"
        )

    def complete(self, source: Source) -> Path:
        assert self._plan is not None, "prepare comes first"
        plan = self._plan
        with map_os_errors(self.partial, self._bytes_left):
            rows = self._earlier.pieces(plan)
            self._clear(range(len(plan.shards)))
        files = {}
        for other in plan.copied:
            with map_os_errors(self.partial / other.name, self._bytes_left):
                files[other.name] = copy_other(self._files, self.partial, source, other)
        source.check_unchanged()
        with map_os_errors(self.partial, self._bytes_left):
            written = [*(shard.name for shard in plan.shards), *files]
            jobs = min(plan.memory.jobs, cores())
            sha256 = sha256_of(self._files, self.partial, written, jobs) if self._sha256 else None
            for name, content in closing_files(plan, rows, files, sha256):
                make_folders(self._files, self.partial, name)
                self._files.write_file(self.partial / name, content)
            self._set_modes()
            for folder in self._folders():
                self._files.sync_folder(folder)
            self._journals.move()
        return self.partial

    def commit(self) -> None:
        with map_os_errors(self.target):
            try:
                self._standing.commit(self.partial)
                self._building = False
            except BaseException:
                self._building = self._files.exists(self.partial)
                raise
            self.leftover_note = f"the result stands complete at {self.target}"
            self._standing.clear()
            self._journals.remove()
        self._lock.release()

    def _folders(self) -> list[Path]:
        """The folders that hold files of the result, itself included."""
        above = {folder for path in self._files.walk(self.partial) for folder in path.parents}
        return sorted(folder for folder in above if folder.is_relative_to(self.partial))

    def _set_modes(self) -> None:
        """Give folders and files the permissions that were asked for, instead of the umask's."""
        if self._modes is None:
            return
        of_folders, of_files = self._modes
        for path in self._files.walk(self.partial):
            self._files.set_mode(path, of_files)
        for folder in self._folders():
            self._files.set_mode(folder, of_folders)

    def abort(self, *, keep: bool = True) -> None:
        unfinished = self._shards.close() if self._shards else []
        self._journals.close()
        if self._plan is not None and self._building:
            with suppress(OSError):
                for path in unfinished:
                    self._files.unlink(path)
            with suppress(OSError):
                self._leave(self._plan, keep)
        self._standing.remove_parents()
        self._lock.release()

    def _leave(self, plan: Plan, keep: bool) -> None:
        """Keep what is finished and say so; where that is nothing, remove the partial folder."""
        if keep and self._finished:
            self.leftover_note = (
                f"{len(self._finished)} of {len(plan.shards)} shards are finished, in "
                f"{self.partial}; the same command with --resume goes on"
            )
            self._journals.move_back()
        elif self._part.of == 1:
            self._files.remove_tree(self.partial)
            self._journals.remove()


def _bytes_left(plan: Plan, finished: Mapping[int, Finished]) -> int:
    """What is still to be written, in bytes."""
    return plan.write_bytes - sum(done.size for done in finished.values())

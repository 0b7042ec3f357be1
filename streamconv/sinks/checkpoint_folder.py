"""A checkpoint folder as the target of a conversion.

Everything is written to `DST.streamconv-partial`; every file and every name is made durable, and
a journal lists the shards that are finished. The commit is one rename of that folder. So DST
never holds an incomplete checkpoint, and a run that ended in any way can be resumed.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from streamconv.errors import UsageError, quoted
from streamconv.planning.partition import Partition
from streamconv.planning.plan import Plan
from streamconv.planning.removal import Removal
from streamconv.sinks.committed_folder import CommittedFolder
from streamconv.sinks.folder_contents import FolderContents
from streamconv.sinks.journal import Finished
from streamconv.sinks.kept_names import check_kept_names
from streamconv.sinks.next_run import FINISH, PART, RUN
from streamconv.sinks.open_folder import OpenFolder, bytes_left
from streamconv.sinks.os_errors import map_os_errors
from streamconv.sinks.overlap import ReadPath, check_elsewhere, check_not_read, source_paths
from streamconv.sinks.preflight import check_location, check_readable, check_room
from streamconv.sinks.resume import ResumeState
from streamconv.sinks.run_paths import RunPaths
from streamconv.sinks.workspace import RunWorkspace
from streamconv.sources.open import is_url
from streamconv.system.absolute_paths import absolute_path
from streamconv.system.file_ops import Files
from streamconv.system.identity import Identity
from streamconv.system.linux_file_ops import system_files


class CheckpointFolder:
    """The folder that a conversion writes to. See `Sink` for what `prepare` promises."""

    def __init__(
        self,
        target: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        resume: bool = False,
        modes: tuple[int, int] | None = None,
        sha256: bool = False,
        part: Partition | None = None,
        parts: int = 1,
        is_finish: bool = False,
        reads: Sequence[ReadPath] = (),
        files: Files | None = None,
    ) -> None:
        """Describe the folder; nothing is read or written yet.

        Args:
            target: The path of the folder, which need not exist.
            overwrite: Replace a target that is not empty.
            resume: Keep the shards that an earlier run of the same conversion has finished.
            modes: Permissions of folders and files; None for those of the umask.
            sha256: Read every file back and add its SHA-256, which model hubs show, to the
                manifest.
            part: The part of the run that this process makes; all of it by default.
            parts: How many parts share the conversion, if it is known.
            is_finish: Commit what the parts have written, for `streamconv finish`.
            reads: The paths that the run reads, apart from its source.
            files: The file operations, which tests replace.

        Raises:
            UsageError: The target is a URL, or the root of all folders.
        """
        if is_url(os.fspath(target)):
            raise UsageError(
                f"cannot write to {quoted(os.fspath(target))}: targets are folders",
                "write to a folder, then upload it with `hf upload` or the tool of your storage",
            )
        self.target = absolute_path(target)
        self._resume = resume
        self._overwrite = overwrite
        self._modes = modes
        self._sha256 = sha256
        self._parts = parts
        self._reads = tuple(reads)
        self._files = files or system_files()
        self._part = part or Partition()
        next_run = FINISH if is_finish else RUN if self._part.of == 1 else PART
        self._workspace = RunWorkspace(
            RunPaths(self.target), self._part, self._files, overwrite=overwrite, next_run=next_run
        )
        self._resume_state = ResumeState(
            self.partial,
            self._workspace.journals,
            self._files,
            overwrite=overwrite,
            resume=resume,
            next_run=next_run,
        )

    @property
    def partial(self) -> Path:
        """The folder in which the result is built."""
        return self._workspace.partial

    @property
    def leftover_note(self) -> str:
        """What a run that ended early has left, and how to continue; empty if it left nothing."""
        return self._workspace.leftover_note

    def check(self, plan: Plan) -> Mapping[int, Finished]:
        """Check the target without writing anything.

        Args:
            plan: The conversion, whose source must not overlap the target.

        Returns:
            The shards that are finished already, by number.

        Raises:
            OutputExists: The target may not be replaced, or another run is working on it.
            NoSpace: The disk has too little room.
            IOFailed: The target cannot be written to, or a file to copy cannot be read.
        """
        with map_os_errors(self.target):
            reads = self._all_reads(plan)
            self._check_location(reads)
            self._workspace.check_own()
            self._workspace.lock.check()
            if committed := self._committed(plan):
                return committed
            self._workspace.check_former()
            finished = self._resume_state.finished(plan)
            self._workspace.partial_folder.check(plan)
            check_not_read(self._workspace.paths, self._identities(plan), reads)
            check_readable(plan, reads)
            reclaimed = self._resume_state.reclaimed(finished)
            check_room(plan, bytes_left(plan, finished), self.target.parent, reclaimed)
        return finished

    def clear_leftovers(self) -> None:
        """Remove what a run that died at the very end of its commit has left next to the target.

        Nothing is removed while a result is incomplete, or a request is left to finish.

        Raises:
            OutputExists: Another run is working on the target.
            IOFailed: The files cannot be removed.
        """
        with map_os_errors(self.target):
            self._workspace.clear_leftovers()

    def _committed(self, plan: Plan) -> dict[int, Finished]:
        """Find the shards of a committed result that a run with --resume only has to clean up."""
        workspace = self._workspace
        if not self._resume or (
            self._files.exists(workspace.paths.replaced, follow=False) and not self._overwrite
        ):
            return {}
        return workspace.committed(plan)

    def removals(self, plan: Plan) -> tuple[Removal, ...]:
        """List every file that the run removes: of a former target, and of an unfinished run.

        Args:
            plan: The conversion.

        Raises:
            IOFailed: A folder cannot be read.
        """
        with map_os_errors(self.target):
            return tuple(
                Removal(str(contents.folder / entry.name), entry.size)
                for contents in self._removed(plan)
                for entry in contents.files()
            )

    def _removed(self, plan: Plan) -> list[FolderContents]:
        """List the folders that the run removes."""
        found = self._workspace.replacement.former(self._workspace.target_is_result())
        starts_over = self._overwrite or self._resume_state.has_nothing_to_resume()
        if starts_over and not self._resume:
            found.append(self._workspace.partial_folder.contents(plan))
        return found

    def _identities(self, plan: Plan) -> list[tuple[Path, Identity]]:
        """Return all that the run removes, with the identity of each."""
        return [
            (contents.folder / entry.name, entry.identity)
            for contents in self._removed(plan)
            for entry in contents.entries
        ]

    def prepare(self, plan: Plan) -> OpenFolder | CommittedFolder:
        workspace = self._workspace
        with ExitStack() as undo:
            # in reverse order: parents can be removed only after the lock in the innermost one
            undo.callback(workspace.parents.remove)
            undo.callback(workspace.remove_unused, plan)
            undo.callback(workspace.lock.release)
            with map_os_errors(self.target):
                reads = self._all_reads(plan)
                self._check_location(reads)
                workspace.parents.make()
                workspace.check_own()
                workspace.lock.take()
                self._check_location(reads)
                check_elsewhere(workspace.paths, workspace.lock.is_seen_in, reads)
                if committed := self._committed(plan):
                    undo.pop_all()
                    return CommittedFolder(committed, workspace)
                workspace.replacement.recover(workspace.target_is_result())
            finished = self.check(plan)
            left = partial(bytes_left, plan, finished)
            with map_os_errors(self.partial, left, workspace.next_run):
                partial_exists = self._files.exists(self.partial)
                if partial_exists and not self._resume:
                    workspace.partial_folder.clear(plan)
                undo.callback(workspace.leave, plan, finished)
                workspace.partial_folder.make()
                if self._resume and partial_exists:
                    workspace.journals.move_back()
                journal = workspace.journals.start(plan, finished)
                undo.callback(journal.close)
                if self._part.of == 1:
                    workspace.partial_folder.keep_only(
                        plan, (plan.shards[number].name for number in finished)
                    )
                if self._part.number == 1:  # others may be at work in the same folder
                    check_kept_names(self.partial, (o.name for o in plan.copied), self._files)
            undo.pop_all()
        return OpenFolder(
            plan,
            finished,
            workspace,
            journal,
            modes=self._modes,
            sha256=self._sha256,
            parts=self._parts,
        )

    def _check_location(self, reads: Sequence[ReadPath]) -> None:
        """Check that the result can be renamed to the target; see `check_location`."""
        check_location(self.target, reads, self._files, self._part.of)

    def _all_reads(self, plan: Plan) -> tuple[ReadPath, ...]:
        """Return every path of this machine that the run reads."""
        return (*source_paths(plan), *self._reads)

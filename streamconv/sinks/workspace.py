"""Everything on disk that belongs to a run: partial folder, journals, lock, replaced target."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from streamconv.errors import OutputExists, StreamconvError, quoted
from streamconv.planning.partition import Partition
from streamconv.planning.plan import Plan
from streamconv.sinks.file_copy import make_folders
from streamconv.sinks.folder_contents import (
    FolderContents,
    list_contents,
    remove_contents,
)
from streamconv.sinks.journal import Finished
from streamconv.sinks.journal_files import Journals
from streamconv.sinks.known_paths import partial_paths
from streamconv.sinks.next_run import RUN, NextRun
from streamconv.sinks.parent_folders import ParentFolders
from streamconv.sinks.replace import TargetReplacement
from streamconv.sinks.result_shards import shards_of_result
from streamconv.sinks.run_lock import Lock
from streamconv.sinks.run_paths import RunPaths
from streamconv.sinks.usable_paths import check_own_paths, check_renamable, check_usable
from streamconv.system.file_ops import Files


class RunWorkspace:
    """The files of one part of the run that converts to a target."""

    def __init__(
        self,
        paths: RunPaths,
        part: Partition,
        files: Files,
        *,
        overwrite: bool,
        next_run: NextRun = RUN,
    ) -> None:
        self.paths = paths
        self.partial = paths.partial
        self.part = part
        self.files = files
        self.lock = Lock(paths, part, files)
        self.journals = Journals(paths, part.number, files)
        self.parents = ParentFolders(paths.target, files)
        self.replacement = TargetReplacement(paths, overwrite, files, next_run)
        self.next_run = next_run
        files.guard(paths.parent, paths.own_prefix)
        self._is_in_use = False
        """True if this part has, or could have, made files in the partial folder."""
        self.leftover_note = ""
        """A sentence for the person at the terminal: what a run that ended early has left."""

    def check_own(self) -> None:
        """Check that every path next to the target with a name of ours is ours. Raises OSError.

        The contents of the partial folder are checked when they are listed.
        """
        check_own_paths(self.paths, self.files)
        self._check_renamable(self.paths.partial)

    def _check_renamable(self, folder: Path) -> None:
        """Refuse a folder that this run could fill, but not commit, or not replace."""
        if self.part.of == 1:
            check_renamable(folder, self.paths, self.files)

    def target_is_result(self) -> bool:
        """Return True if the target is the result of a run that died right after its commit."""
        return not self.files.exists(self.partial) and bool(self.journals.moved())

    def committed(self, plan: Plan) -> dict[int, Finished]:
        """Find the shards of a result at the target that a run left right after its commit.

        Returns:
            All shards, by number; empty if the target is not the result of `plan`.
        """
        if not self.target_is_result():
            return {}
        journals = self.journals.read_moved()
        return shards_of_result(plan, journals, self.paths.target, self.files)

    def check_former(self) -> None:
        """Refuse a target that may not be replaced, by `finish` one that no part has listed.

        Raises:
            OutputExists: The target is not empty, or holds what is not to be replaced.
        """
        self.replacement.check(self.target_is_result())
        self._check_renamable(self.paths.target)
        if not self.next_run.is_finish or self.replacement.is_empty():
            return
        listed = self.journals.read_listing()
        if listed is not None and listed != self.replacement.listing():
            raise OutputExists(
                f"cannot replace {quoted(str(self.paths.target))}: it is not as it was when the "
                "last part began",
                "look at it, move it elsewhere, or run a part again with --overwrite, then "
                f"{self.next_run.resume}",
            )

    def save_request(self, request: bytes) -> None:
        """Save the request of the conversion, and what it may replace, until the commit."""
        self.journals.save_request(request)
        if self.replacement.overwrite and not self.next_run.is_finish:
            self.journals.save_listing(self.replacement.listing())

    def clear_leftovers(self) -> None:
        """Remove the journals or lock of a run that died after everything else was removed.

        Raises:
            OutputExists: Another run is working on the target.
        """
        self.check_own()
        paths, exists = self.paths, self.files.exists
        kept = (paths.partial, paths.replaced, paths.moved(paths.request))
        if not exists(paths.target) or any(exists(path, follow=False) for path in kept):
            return
        self.lock.take()
        try:
            if not any(exists(path, follow=False) for path in kept):
                self.journals.remove_moved()
        finally:
            self.lock.release()

    def finish_commit(self, *, is_earlier_run: bool = False) -> None:
        """Make the name of the result durable, then remove what its run kept next to it.

        Args:
            is_earlier_run: An earlier run has committed the result.
        """
        self.replacement.cleanup(is_earlier_run=is_earlier_run)
        self.journals.remove_moved()

    def make_partial(self) -> None:
        """Create the partial folder, if it does not exist, and make its name durable."""
        self._is_in_use = True
        with suppress(FileExistsError):
            self.files.make_folder(self.partial)
            check_usable(self.paths, self.files)
        self.files.sync_folder(self.partial.parent)

    def partial_contents(self, plan: Plan) -> FolderContents:
        """List the partial folder: files that runs have written, and those of somebody else.

        Args:
            plan: The conversion of this run.
        """
        if not self.files.exists(self.partial):
            return FolderContents(self.partial)
        known = partial_paths(plan, self.journals.read())
        return list_contents(self.partial, known, self.files, any_owner=True)

    def check_partial(self, plan: Plan) -> None:
        """Raise OutputExists if the partial folder holds files that no run has written."""
        self._require_own(self.partial_contents(plan))

    def _require_own(self, contents: FolderContents) -> None:
        contents.require_nothing_foreign(
            f"cannot use {quoted(str(self.partial))}: it holds files that no conversion has "
            "written, or that cannot be removed",
            "move them elsewhere, then run again",
        )

    def clear_partial(self, plan: Plan) -> None:
        """Remove the partial folder. If it has files that no run has written, these are kept."""
        contents = self.partial_contents(plan)
        remove_contents(contents, self.files, self.paths.is_journal)

    def keep_only(self, plan: Plan, names: Iterable[str]) -> None:
        """Remove the files of runs from the partial folder, except journals and some other files.

        Args:
            plan: The conversion of this run.
            names: The files that are kept.

        Raises:
            OutputExists: It holds something else.
        """
        contents = self.partial_contents(plan)
        self._require_own(contents)
        kept = {self.partial / name for name in names}
        kept.update(self.journals.in_folder())
        for entry in contents.files():
            if self.partial / entry.name not in kept:
                self.files.unlink(self.partial / entry.name)

    def write_file(self, name: str, content: bytes) -> None:
        """Write a small file into the partial folder, durable on return."""
        make_folders(self.files, self.partial, name)
        self.files.write_file(self.partial / name, content)

    def set_modes(self, folder_mode: int, file_mode: int) -> None:
        """Set the permissions of the partial folder and of everything in it."""
        for path in self.files.walk(self.partial):
            self._set_mode(path, file_mode)
        for folder in self._folders():
            self._set_mode(folder, folder_mode)

    def set_shard_modes(self, mode: int) -> None:
        """Set the permissions of the files in the partial folder, except journals.

        Other parts may be at work in it.
        """
        for path in self.files.walk(self.partial):
            if not self.paths.is_journal(path.name):
                with suppress(FileNotFoundError):  # another part has just renamed or removed it
                    self._set_mode(path, mode)

    def _set_mode(self, path: Path, mode: int) -> None:
        """Set permissions; those of another user's files are set by the part that made them."""
        try:
            self.files.set_mode(path, mode)
        except PermissionError:
            if self.files.stat(path).st_uid == os.geteuid():
                raise

    def sync_folders(self) -> None:
        """Make the names of all files in the partial folder durable."""
        for folder in self._folders():
            self.files.sync_folder(folder)

    def _folders(self) -> list[Path]:
        """List the folders that hold files of the result, the partial folder included."""
        parents = {folder for path in self.files.walk(self.partial) for folder in path.parents}
        return sorted(folder for folder in parents if folder.is_relative_to(self.partial))

    def leave(self, plan: Plan, finished: Mapping[int, Finished], *, keep: bool = True) -> None:
        """Keep the finished shards for a later run, or remove the partial folder.

        Does as much as the disk allows: a failure is ignored, because another one already ends the
        run.

        Args:
            plan: The conversion.
            finished: The shards that are finished, by number.
            keep: Keep them if there are any. Without it they are removed, unless other parts
                have shards in the same folder.
        """
        with suppress(OSError):
            if keep and finished:
                self.leftover_note = (
                    f"{len(finished)} of {len(plan.shards)} shards are finished in {self.partial}; "
                    f"{self.next_run.resume} to continue"
                )
                self.journals.move_back()
            elif self.part.of == 1:
                self.clear_partial(plan)
                self.journals.remove_moved()

    def remove_unused(self, plan: Plan) -> None:
        """Remove the partial folder of several parts, if none has finished a shard or is running.

        Otherwise, parts that fail early would leave a folder that only blocks the next run. Call it
        after this part's lock is released: then the last part to end removes the folder.

        Args:
            plan: The conversion.
        """
        if self.part.of == 1 or not self._is_in_use:
            return
        alone = Lock(self.paths, Partition(), self.files)
        with suppress(OSError, StreamconvError):
            alone.take()
            try:
                journals = self.journals.read()
                if journals and not any(journal.finished for journal in journals):
                    self.clear_partial(plan)
                    self.journals.remove_moved()
            finally:
                alone.release()

"""Everything on disk that belongs to a run: partial folder, journals, lock, replaced target."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from streamconv.errors import OutputExists, StreamconvError, quoted
from streamconv.planning.partition import Partition
from streamconv.planning.plan import Plan
from streamconv.sinks.journal import Finished
from streamconv.sinks.journal_files import Journals
from streamconv.sinks.next_run import RUN, NextRun
from streamconv.sinks.parent_folders import ParentFolders
from streamconv.sinks.partial_folder import PartialFolder
from streamconv.sinks.replace import TargetReplacement
from streamconv.sinks.result_shards import shards_of_result
from streamconv.sinks.run_lock import Lock
from streamconv.sinks.run_paths import RunPaths
from streamconv.sinks.usable_paths import check_own_paths, check_renamable
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
        self.partial_folder = PartialFolder(paths, self.journals, files)
        self.parents = ParentFolders(paths.target, files)
        self.replacement = TargetReplacement(paths, overwrite, files, next_run)
        self.next_run = next_run
        files.guard(paths.parent, paths.own_prefix)
        self.leftover_note = ""
        """A sentence for the person at the terminal: what a run that ended early has left."""

    def check_own(self) -> None:
        """Check that every path next to the target with a name of ours is ours. Raises OSError.

        The contents of the partial folder are checked when they are listed.
        """
        check_own_paths(self.paths, self.files)
        for path in (self.paths.partial, self.paths.replaced, *self.journals.moved()):
            self._check_renamable(path)

    def _check_renamable(self, path: Path) -> None:
        """Refuse what this run could read or fill, but not commit, or not replace."""
        if self.part.of == 1:
            check_renamable(path, self.paths, self.files)

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
                self.partial_folder.clear(plan)
                self.journals.remove_moved()

    def remove_unused(self, plan: Plan) -> None:
        """Remove the partial folder of several parts, if none has finished a shard or is running.

        Otherwise, parts that fail early would leave a folder that only blocks the next run. Call it
        after this part's lock is released: then the last part to end removes the folder.

        Args:
            plan: The conversion.
        """
        if self.part.of == 1 or not self.partial_folder.is_in_use:
            return
        alone = Lock(self.paths, Partition(), self.files)
        with suppress(OSError, StreamconvError):
            alone.take()
            try:
                journals = self.journals.read()
                if journals and not any(journal.finished for journal in journals):
                    self.partial_folder.clear(plan)
                    self.journals.remove_moved()
            finally:
                alone.release()

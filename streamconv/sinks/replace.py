"""The commit: the finished folder gets the name of the target, and replaces what had it.

With --overwrite, the former target is listed before the conversion and refused if anything in it
is not a checkpoint's (`known_paths`) or cannot be removed. At the end it is renamed to
`out.streamconv-replaced`, and removed last, file by file as it was listed. A crash leaves one of
these states; the next run recovers it before it does anything else:

    out       .streamconv-replaced   .streamconv-partial   recovery by the next run
    former    -                      complete              none: --resume commits again
    -         former                 complete              rename `replaced` back to `out`
    result    former, or some of it  -                     remove `replaced` (with --overwrite;
                                                           refuse without)
    result    -                      -                     none: the commit is done

These calls lead from state to state; anything else that appears in a folder is never removed:

    list `out` again       something is new or has changed: refuse, nothing was renamed
    look at `replaced`     something is there: refuse, nothing was renamed
    rename out, replaced
    list `replaced`        the same: rename it back to `out`, refuse
    chown, chmod           `partial` gets the permissions of `replaced`; if it cannot: the same
    rename partial, out    the commit; readers see it at once
    unlink, rmdir          each file as it was listed, configs and manifest last, as they tell what
                           else is a checkpoint's; what appeared since is kept and named

Journals next to the target tell the result from the former target (`journal_files`). If both
`out` and `replaced` exist and nothing proves that `out` is a result, the run is refused.
"""

import errno
import stat
from dataclasses import replace
from pathlib import Path

from streamconv.errors import IOFailed, OutputExists, quoted
from streamconv.sinks.folder_contents import (
    FolderContents,
    Foreign,
    list_contents,
    remove_contents,
)
from streamconv.sinks.former_permissions import taken_over
from streamconv.sinks.known_paths import AllPaths, checkpoint_paths, is_evidence
from streamconv.sinks.next_run import RUN, NextRun
from streamconv.sinks.run_paths import RunPaths
from streamconv.system.file_ops import Files


class TargetReplacement:
    """The target of a run, and its replacement by the result."""

    def __init__(
        self, paths: RunPaths, overwrite: bool, files: Files, next_run: NextRun = RUN
    ) -> None:
        """Replace a target that is not empty only with `overwrite`."""
        self._target = paths.target
        self._replaced = paths.replaced
        self.overwrite = overwrite
        self._files = files
        self._next_run = next_run
        self._listed = FolderContents(paths.target)
        """The former target as the last check has listed it; nothing else is removed."""
        self._has_replaced = False
        """True if this run has renamed the former target that was listed."""

    def former(self, target_is_result: bool) -> list[FolderContents]:
        """List the folders that will be removed with --overwrite.

        Args:
            target_is_result: As in `check`.

        Raises:
            OSError: A folder cannot be read.
        """
        if not self.overwrite:
            return []
        if not self._files.exists(self._replaced, follow=False):
            return [self._list(self._target)]
        if not self._files.exists(self._target):
            return [self._list(self._replaced)]
        return [self._list(self._replaced, is_former=target_is_result), self._list(self._target)]

    def check(self, target_is_result: bool) -> None:
        """Refuse a target that may not be replaced.

        Args:
            target_is_result: The target is the result of a run that died right after its commit.

        Raises:
            OutputExists: The target is not empty, or it is unclear what an earlier run replaced.
        """
        has_target = self._files.exists(self._target)
        has_replaced = self._files.exists(self._replaced, follow=False)
        if has_replaced and has_target and not (self.overwrite and target_is_result):
            self._require_no_replaced()
        former = self._replaced if has_replaced else self._target
        if not self.overwrite and self._files.is_folder(former) and self._files.names(former):
            what = f"{former} is not empty" if has_replaced else "the folder is not empty"
            raise OutputExists(
                f"cannot write to {self._target}: {what}",
                self._next_run.replace,
            )
        for contents in self.former(target_is_result):
            _require_removable(contents)
            self._listed = contents

    def is_empty(self) -> bool:
        """Return True if the last check has found nothing to remove."""
        return not self._listed.entries

    def listing(self) -> bytes:
        """Return a digest of the former target as the last check has listed it."""
        return self._listed.digest()

    def recover(self, target_is_result: bool) -> None:
        """Recover from a run that died during its commit; see the table above.

        Args:
            target_is_result: As in `check`.

        Raises:
            OutputExists: The folder that is to be removed holds files of somebody else.
        """
        if not self._files.exists(self._replaced, follow=False):
            return
        if not self._files.exists(self._target):
            self._files.rename(self._replaced, self._target)
            self._files.sync_folder(self._target.parent)
        elif self.overwrite and target_is_result:
            contents = self._list(self._replaced, is_former=True)
            _require_removable(contents)
            self._remove(contents)

    def commit(self, folder: Path) -> None:
        """Rename `folder` to the target; if that fails, the former target is put back.

        Raises:
            OutputExists: The former target is not as it was listed before the conversion, or
                something else has appeared under one of the names.
            PlantedFile: `folder` is not the one that this run has made.
            IOFailed: It cannot be closed to all to whom the former target is closed.
        """
        self._files.check_own(folder, is_folder=True)
        has_target = self._files.exists(self._target, follow=False)
        if has_target:
            self._require_as_listed(self._target)
        is_replacing = has_target and self.overwrite
        if is_replacing:
            self._require_no_replaced()
            self._rename_former()
        try:
            if is_replacing:
                self._require_as_listed(self._replaced)
            former = self._replaced if is_replacing else self._target
            with taken_over(folder, former, self._files):
                self._files.rename(folder, self._target)
        except BaseException:
            if is_replacing and not self._files.exists(self._target, follow=False):
                self._files.rename(self._replaced, self._target)
            raise

    def _rename_former(self) -> None:
        try:
            self._files.rename(self._target, self._replaced)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # such as a folder in a lower layer of an overlay, as images of containers have
            raise IOFailed(
                f"cannot replace {quoted(str(self._target))}: the system cannot rename it, "
                "as a part of it is on another file system or layer",
                f"move it elsewhere, and {self._next_run.resume}",
            ) from error
        self._has_replaced = True

    def cleanup(self, *, is_earlier_run: bool = False) -> None:
        """Make the name of the result durable, then remove the former target.

        Args:
            is_earlier_run: An earlier run has renamed the former target. It is listed again.

        Raises:
            OutputExists: Something appeared in the former target; it is kept.
        """
        self._files.sync_folder(self._target.parent)
        if not self._files.exists(self._replaced):
            return
        if self._has_replaced:
            self._remove(replace(self._listed, folder=self._replaced))
        elif is_earlier_run:
            contents = self._list(self._replaced, is_former=True)
            _require_removable(contents)
            self._remove(contents)

    def _list(self, folder: Path, *, is_former: bool = False) -> FolderContents:
        """List a folder that is to be removed. Files that no known checkpoint has are foreign."""
        if not self._files.is_folder(folder):
            return FolderContents(folder)
        known = checkpoint_paths(folder, self._files, is_being_removed=is_former)
        return list_contents(folder, known, self._files)

    def _require_no_replaced(self) -> None:
        """Raise OutputExists if there is something where the former target is renamed to."""
        if self._files.exists(self._replaced, follow=False):
            raise OutputExists(
                f"cannot write to {self._target}: {self._replaced} exists, which an earlier run "
                "was replacing",
                "look at it, then remove it or move it away",
            )

    def _require_as_listed(self, folder: Path) -> None:
        """Raise OutputExists if something in the former target is new or has changed."""
        if not stat.S_ISDIR(self._files.stat(folder, follow=False).st_mode):
            raise OutputExists(
                f"cannot write to {self._target}: something that is not a folder was put there "
                "during the conversion",
                f"look at it, move it elsewhere, and {self._next_run.resume}",
            )
        self._differences(folder).require_nothing_foreign(
            f"cannot replace {quoted(str(self._target))}: it is not as it was before the "
            "conversion",
            f"look at them, move them elsewhere, and {self._next_run.resume}",
        )

    def _differences(self, folder: Path) -> FolderContents:
        """Return what is new or has changed. A folder that was empty may be of any user."""
        if self.overwrite:
            return self._listed.differences(list_contents(folder, AllPaths(), self._files))
        new = (Foreign(name, "new") for name in self._files.names(folder))
        return FolderContents(folder, (), tuple(new))

    def _remove(self, contents: FolderContents) -> None:
        """Remove what was listed. Raises OutputExists if something else is in the folder."""
        if remove_contents(contents, self._files, is_evidence):
            return
        now = list_contents(contents.folder, AllPaths(), self._files)
        replace(contents, entries=()).differences(now).require_nothing_foreign(
            f"cannot remove {quoted(str(contents.folder))}, which {quoted(str(self._target))} "
            "has replaced",
            f"look at them, move them elsewhere, and remove {contents.folder}",
        )


def _require_removable(contents: FolderContents) -> None:
    """Raise OutputExists if a folder holds anything foreign."""
    contents.require_nothing_foreign(
        f"cannot replace {quoted(str(contents.folder))}: it holds files that no known checkpoint "
        "has, or that cannot be removed",
        "move them elsewhere, or name another folder",
    )

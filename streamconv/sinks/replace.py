"""The commit: the finished folder gets the name of the target, and replaces what had it.

With --overwrite, the former target is renamed to `out.streamconv-replaced` first and removed
last. A crash leaves one of these states; the next run recovers it before it does anything else:

    out       .streamconv-replaced   .streamconv-partial   recovery by the next run
    former    -                      complete              none: --resume commits again
    -         former                 complete              rename `replaced` back to `out`
    result    former                 -                     remove `replaced` (with --overwrite;
                                                           refuse without)
    result    -                      -                     none: the commit is done

Journals next to the target tell the result from the former target (`journal_files`). If both
`out` and `replaced` exist and nothing proves that `out` is a result, the run is refused.
"""

from contextlib import suppress
from pathlib import Path

from streamconv.errors import OutputExists
from streamconv.sinks.run_paths import RunPaths
from streamconv.system.file_ops import Files


class TargetReplacement:
    """The target of a run, and its replacement by the result."""

    def __init__(self, paths: RunPaths, overwrite: bool, files: Files) -> None:
        """Replace a target that is not empty only with `overwrite`."""
        self._target = paths.target
        self._replaced = paths.replaced
        self._overwrite = overwrite
        self._files = files
        self._made_parents: list[Path] = []

    def check(self, target_is_result: bool) -> None:
        """Refuse a target that may not be replaced.

        Args:
            target_is_result: The target is the result of a run that died right after its commit.

        Raises:
            OutputExists: The target is not empty, or it is unclear what an earlier run replaced.
        """
        has_target = self._files.exists(self._target)
        has_replaced = self._files.exists(self._replaced, follow=False)
        if has_replaced and has_target and not (self._overwrite and target_is_result):
            raise OutputExists(
                f"cannot write to {self._target}: {self._replaced} exists, which an earlier run "
                "was replacing",
                "look at it, then remove it or move it away",
            )
        former = self._replaced if has_replaced else self._target
        if not self._overwrite and self._files.is_folder(former) and self._files.names(former):
            raise OutputExists(
                f"cannot write to {self._target}: {former} is not empty",
                "name another folder, or add --overwrite to replace it",
            )

    def make_parents(self) -> None:
        """Create the missing folders above the target."""
        missing = [folder for folder in self._target.parents if not self._files.exists(folder)]
        for folder in reversed(missing):
            with suppress(FileExistsError):
                self._files.make_folder(folder)
                self._files.sync_folder(folder.parent)
                self._made_parents.append(folder)

    def remove_parents(self) -> None:
        """Remove the folders that `make_parents` created, if they are empty."""
        for folder in reversed(self._made_parents):
            with suppress(OSError):
                self._files.remove_folder(folder)

    def recover(self, target_is_result: bool) -> None:
        """Recover from a run that died during its commit; see the table above.

        Args:
            target_is_result: As in `check`.
        """
        if not self._files.exists(self._replaced, follow=False):
            return
        if not self._files.exists(self._target):
            self._files.rename(self._replaced, self._target)
            self._files.sync_folder(self._target.parent)
        elif self._overwrite and target_is_result:
            self._files.remove_tree(self._replaced)

    def commit(self, folder: Path) -> None:
        """Rename `folder` to the target; if that fails, the former target is put back."""
        is_replacing = self._overwrite and self._files.exists(self._target)
        if is_replacing:
            self._files.rename(self._target, self._replaced)
        try:
            self._files.rename(folder, self._target)
        except BaseException:
            if is_replacing and not self._files.exists(self._target):
                self._files.rename(self._replaced, self._target)
            raise

    def cleanup(self) -> None:
        """Make the name of the result durable, then remove the former target."""
        self._files.sync_folder(self._target.parent)
        if self._files.exists(self._replaced):
            self._files.remove_tree(self._replaced)

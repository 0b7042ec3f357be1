"""What stands at the place of a result, and how the result takes its place.

With leave to overwrite, what stands there is moved aside first and removed last. A run that dies
in between is put right by the next one: before the result is there, what stood is moved back;
after that, it is what has to go.
"""

from contextlib import suppress
from pathlib import Path

from streamconv.errors import OutputExists
from streamconv.system.file_ops import Files

REPLACED_SUFFIX = ".streamconv-replaced"


class TargetReplacement:
    """What is at `target`, which only with `overwrite` may be anything."""

    def __init__(self, target: Path, overwrite: bool, files: Files) -> None:
        self._target = target
        self._replaced = target.with_name(target.name + REPLACED_SUFFIX)
        self._overwrite = overwrite
        self._files = files
        self._made: list[Path] = []

    def check(self, result_stands: bool) -> None:
        """Refuse what is there, or was before a run died in the middle of replacing it.

        `result_stands` says that what is there is the result of such a run. Raises OutputExists.
        """
        there = self._files.exists(self._target)
        replaced = self._files.exists(self._replaced, follow=False)
        if replaced and there and not (self._overwrite and result_stands):
            raise OutputExists(
                f"{self._replaced} is there: what an earlier run was replacing",
                "look at it, then remove it or move it away",
            )
        standing = self._replaced if replaced else self._target
        if not self._overwrite and self._files.is_folder(standing) and self._files.names(standing):
            raise OutputExists(
                f"{standing} is not empty", "name another folder, or replace it with --overwrite"
            )

    def make_parents(self) -> None:
        """Make the folders above."""
        missing = [folder for folder in self._target.parents if not self._files.exists(folder)]
        for folder in reversed(missing):
            with suppress(FileExistsError):
                self._files.make_folder(folder)
                self._files.sync_folder(folder.parent)
                self._made.append(folder)

    def remove_parents(self) -> None:
        """Remove those that were made here, and are empty."""
        for folder in reversed(self._made):
            with suppress(OSError):
                self._files.remove_folder(folder)

    def recover(self, result_stands: bool) -> None:
        """Finish what a run left that died in the middle of replacing what was there."""
        if not self._files.exists(self._replaced, follow=False):
            return
        if not self._files.exists(self._target):
            self._files.rename(self._replaced, self._target)
            self._files.sync_folder(self._target.parent)
        elif self._overwrite and result_stands:
            self._files.remove_tree(self._replaced)

    def commit(self, folder: Path) -> None:
        """Move `folder` to the place; what was there is put back where that fails."""
        replacing = self._overwrite and self._files.exists(self._target)
        if replacing:
            self._files.rename(self._target, self._replaced)
        try:
            self._files.rename(folder, self._target)
        except BaseException:
            if replacing and not self._files.exists(self._target):
                self._files.rename(self._replaced, self._target)
            raise

    def clear(self) -> None:
        """Make the result's name durable, and remove what it has replaced."""
        self._files.sync_folder(self._target.parent)
        if self._files.exists(self._replaced):
            self._files.remove_tree(self._replaced)

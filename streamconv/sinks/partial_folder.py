"""The partial folder, in which the result is built: what is in it, and its permissions."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from streamconv.errors import quoted
from streamconv.planning.plan import Plan
from streamconv.sinks.file_copy import make_folders
from streamconv.sinks.folder_contents import FolderContents, list_contents, remove_contents
from streamconv.sinks.former_permissions import close_off
from streamconv.sinks.journal_files import Journals
from streamconv.sinks.known_paths import partial_paths
from streamconv.sinks.run_paths import RunPaths
from streamconv.sinks.usable_paths import check_usable
from streamconv.system.file_ops import Files


class PartialFolder:
    """The partial folder of a run, which its parts share."""

    def __init__(self, paths: RunPaths, journals: Journals, files: Files) -> None:
        self.path = paths.partial
        self.is_in_use = False
        """True if this part has, or could have, made files in it."""
        self._paths = paths
        self._journals = journals
        self._files = files

    def make(self) -> None:
        """Create the partial folder, if it does not exist, and make its name durable.

        It is closed to those to whom the target is closed that it will replace.
        """
        self.is_in_use = True
        with suppress(FileExistsError):
            self._files.make_folder(self.path)
            check_usable(self._paths, self._files)
        close_off(self.path, self._paths.target, self._files)
        self._files.sync_folder(self.path.parent)

    def contents(self, plan: Plan) -> FolderContents:
        """List the partial folder: files that runs have written, and those of somebody else.

        Args:
            plan: The conversion of this run.
        """
        if not self._files.exists(self.path):
            return FolderContents(self.path)
        known = partial_paths(plan, self._journals.read())
        return list_contents(self.path, known, self._files, any_owner=True)

    def check(self, plan: Plan) -> None:
        """Raise OutputExists if the partial folder holds files that no run has written."""
        self._require_own(self.contents(plan))

    def clear(self, plan: Plan) -> None:
        """Remove the partial folder. If it has files that no run has written, these are kept."""
        contents = self.contents(plan)
        remove_contents(contents, self._files, self._paths.is_journal)

    def keep_only(self, plan: Plan, names: Iterable[str]) -> None:
        """Remove the files of runs from the partial folder, except journals and some other files.

        Args:
            plan: The conversion of this run.
            names: The files that are kept.

        Raises:
            OutputExists: It holds something else.
        """
        contents = self.contents(plan)
        self._require_own(contents)
        kept = {self.path / name for name in names}
        kept.update(self._journals.in_folder())
        for entry in contents.files():
            if self.path / entry.name not in kept:
                self._files.unlink(self.path / entry.name)

    def _require_own(self, contents: FolderContents) -> None:
        contents.require_nothing_foreign(
            f"cannot use {quoted(str(self.path))}: it holds files that no conversion has "
            "written, or that cannot be removed",
            "move them elsewhere, then run again",
        )

    def write_file(self, name: str, content: bytes) -> None:
        """Write a small file into the partial folder, durable on return."""
        make_folders(self._files, self.path, name)
        self._files.write_file(self.path / name, content)

    def set_modes(self, folder_mode: int, file_mode: int) -> None:
        """Set the permissions of everything in the partial folder, and of the folder itself.

        A folder that replaces another one gets the permissions of that one instead.
        """
        for path in self._files.walk(self.path):
            self._set_mode(path, file_mode)
        for folder in self._folders():
            if folder != self.path or not self._files.exists(self._paths.target):
                self._set_mode(folder, folder_mode)

    def set_shard_modes(self, mode: int) -> None:
        """Set the permissions of the files in the partial folder, except journals.

        Other parts may be at work in it.
        """
        for path in self._files.walk(self.path):
            if not self._paths.is_journal(path.name):
                with suppress(FileNotFoundError):  # another part has just renamed or removed it
                    self._set_mode(path, mode)

    def _set_mode(self, path: Path, mode: int) -> None:
        """Set permissions; those of another user's files are set by the part that made them."""
        try:
            self._files.set_mode(path, mode)
        except PermissionError:
            if self._files.stat(path).st_uid == os.geteuid():
                raise

    def sync_folders(self) -> None:
        """Make the names of all files in the partial folder durable."""
        for folder in self._folders():
            self._files.sync_folder(folder)

    def _folders(self) -> list[Path]:
        """List the folders that hold files of the result, the partial folder included."""
        parents = {folder for path in self._files.walk(self.path) for folder in path.parents}
        return sorted(folder for folder in parents if folder.is_relative_to(self.path))

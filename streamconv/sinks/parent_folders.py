"""The missing folders above a target: a run makes them, and removes them if it leaves nothing."""

from contextlib import suppress
from pathlib import Path

from streamconv.system.file_ops import Files


class ParentFolders:
    """The folders above a target."""

    def __init__(self, target: Path, files: Files) -> None:
        self._target = target
        self._files = files
        self._made: list[Path] = []

    def make(self) -> None:
        """Create those that are missing."""
        missing = [folder for folder in self._target.parents if not self._files.exists(folder)]
        for folder in reversed(missing):
            with suppress(FileExistsError):
                self._files.make_folder(folder)
                self._made.append(folder)
                self._files.sync_folder(folder.parent)

    def remove(self) -> None:
        """Remove those that `make` created, if they are empty."""
        for folder in reversed(self._made):
            with suppress(OSError):
                self._files.remove_folder(folder)

"""Which paths are ours, and how they are reached: folder by folder, following no link."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from streamconv.system.planted import FOLDER, NO_FOLLOW, Place, PlantedFile


class Guard:
    """The names that are ours, in the folders that hold them."""

    def __init__(self) -> None:
        self._roots: set[tuple[Path, str]] = set()

    def add(self, folder: Path, prefix: str) -> None:
        """Guard all names in `folder` that begin with `prefix`, and everything below them."""
        if os.open in os.supports_dir_fd:
            self._roots.add((folder, prefix))

    def split(self, path: Path) -> tuple[Path, Sequence[str]] | None:
        """Split a guarded path into the folder that holds it and the names from there on.

        Returns:
            None if the path is not guarded.
        """
        for folder, prefix in self._roots:
            count = len(folder.parts)
            parts = path.parts
            if len(parts) > count and parts[count].startswith(prefix) and folder in path.parents:
                return folder, parts[count:]
        return None


class GuardedPaths:
    """The part of the file operations that opens guarded paths."""

    def __init__(self) -> None:
        self._guard = Guard()

    def guard(self, folder: Path, prefix: str) -> None:
        """Take as ours all names in `folder` that begin with `prefix`, and what is below them.

        From now on every operation reaches them without following a link, and raises PlantedFile
        for what somebody else has put there; see `planted`.
        """
        self._guard.add(folder, prefix)

    def check_own(self, path: Path, *, is_folder: bool) -> None:
        """Check what is at a guarded path, if anything is. Raises PlantedFile."""
        with self._place(path) as place:
            place.check_if_there(is_folder=is_folder)

    def open_folder(self, name: str | Path, above: int | None) -> int:
        """Open a folder to reach its content. A link in the folder `above` is not followed.

        Args:
            name: Its path; if `above` is given, its name in that folder.
            above: The descriptor of the folder that holds it, if that is guarded.
        """
        return os.open(name, FOLDER | (0 if above is None else NO_FOLLOW), dir_fd=above)

    @contextlib.contextmanager
    def _place(self, path: Path) -> Iterator[Place]:
        """Open the folder that holds a guarded path, for as long as the path is used."""
        split = self._guard.split(path)
        if split is None:
            yield Place(path, path, None)
            return
        above, names = split
        fd = self.open_folder(above, None)
        try:
            for name in names[:-1]:
                above /= name
                Place(above, name, fd).check(is_folder=True)
                inner = self.open_folder(name, fd)
                os.close(fd)
                fd = inner
            yield Place(path, names[-1], fd)
        except OSError as error:
            if not isinstance(error, PlantedFile):
                error.filename = str(path)
            raise
        finally:
            os.close(fd)

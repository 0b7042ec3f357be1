"""File operations that change nothing, on every operating system.

They raise OSError. Callers turn it into errors with a message for people.
"""

import contextlib
import errno
import os
import stat
import threading
from pathlib import Path

from streamconv.system.guarded_paths import GuardedPaths
from streamconv.system.planted import NO_WAIT, names_of_own, raise_unless_gone, walk_own

BINARY = getattr(os, "O_BINARY", 0)
NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""The errors for a path at which nothing exists."""


class FileReads(GuardedPaths):
    """The file operations of a source. It has no others, so it cannot change a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self._seek = threading.Lock()

    def open_read(self, path: Path) -> int:
        """Open a regular file for reading, and return its descriptor.

        Never waits: whatever else has taken the place of a file since it was looked at, such as a
        FIFO or a device without end, raises OSError.
        """
        with self._place(path) as place:
            fd = place.open(os.O_RDONLY | BINARY | NO_WAIT)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        return fd

    def read_into(self, fd: int, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`, and return the bytes read: fewer only at the file's end."""
        done = 0
        while done < len(buffer):
            count = self._read_some(fd, buffer[done:], offset + done)
            if count == 0:
                break
            done += count
        return done

    def read_ahead(self, fd: int, offset: int, nbytes: int) -> None:
        """Start to bring bytes of a file into memory, if the system can. May raise OSError."""

    def read_file(self, path: Path, most: int) -> bytes:
        """Return the bytes of a small regular file, at most `most`: it may be growing."""
        fd = self.open_read(path)
        try:
            with os.fdopen(fd, "rb", closefd=False) as file:
                return file.read(min(most, os.fstat(fd).st_size + 1))
        finally:
            self.close(fd)

    def stat(self, file: int | Path, *, follow: bool = True) -> os.stat_result:
        """Return the status of an open file or a path; with `follow=False`, of a link itself."""
        if isinstance(file, int):
            return os.fstat(file)
        with self._place(file) as place:
            return place.stat(follow=follow)

    def exists(self, path: Path, *, follow: bool = True) -> bool:
        """Return True if the path exists. With `follow=False`, a dangling link exists too."""
        return self._mode(path, follow) is not None

    def is_folder(self, path: Path) -> bool:
        """Return True if the path is a folder, or a link to one."""
        mode = self._mode(path, True)
        return mode is not None and stat.S_ISDIR(mode)

    def is_link(self, path: Path) -> bool:
        """Return True if the path is a link, also if it is dangling."""
        mode = self._mode(path, False)
        return mode is not None and stat.S_ISLNK(mode)

    def real_path(self, path: Path) -> Path:
        """Return the path without links. Raises FileNotFoundError if nothing exists there."""
        return Path(os.path.realpath(path, strict=True))

    def names(self, folder: Path) -> list[str]:
        """Return the names in a folder, sorted."""
        with self._place(folder) as place:
            if not place.is_guarded:
                return sorted(path.name for path in folder.iterdir())
            return names_of_own(place)

    def scan(self, folder: Path) -> list[tuple[str, os.stat_result]]:
        """Return the names in a folder, sorted, with the status of each; links are not followed.

        A file that another process renames or removes meanwhile is left out; if the folder is
        gone, it has no names.
        """
        is_guarded, names, found = False, list[str](), []
        with contextlib.suppress(FileNotFoundError):
            with self._place(folder) as place:
                is_guarded = place.is_guarded
            names = self.names(folder)
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                path = folder / name
                status = self.stat(path, follow=False) if is_guarded else os.lstat(path)
                found.append((name, status))
        return found

    def walk(self, folder: Path) -> list[Path]:
        """Return the paths of all files below a folder, sorted; none if the folder is gone.

        Below a guarded folder, PlantedFile is raised for everything that is not ours.
        """
        try:
            with self._place(folder) as place:
                if place.is_guarded:
                    place.check(is_folder=True)
                    return sorted(walk_own(folder, place))
        except FileNotFoundError:
            return []
        found = os.walk(folder, onerror=raise_unless_gone)
        return sorted(Path(path, name) for path, _, names in found for name in names)

    def close(self, fd: int) -> None:
        os.close(fd)

    def _mode(self, path: Path, follow: bool) -> int | None:
        """Return kind and permissions of a path; None if nothing exists there."""
        try:
            return self.stat(path, follow=follow).st_mode
        except OSError as error:
            if error.errno not in NOTHING_THERE:
                raise
            return None

    def _read_some(self, fd: int, buffer: memoryview, offset: int) -> int:
        with self._seek:
            os.lseek(fd, offset, os.SEEK_SET)
            data = os.read(fd, len(buffer))
        buffer[: len(data)] = data
        return len(data)

"""File operations that every operating system has.

They raise OSError. Callers turn it into errors with a message for people.
"""

import contextlib
import errno
import os
import stat
import threading
from pathlib import Path

from streamconv.system.guarded_paths import GuardedPaths
from streamconv.system.planted import (
    NO_FOLLOW,
    NO_WAIT,
    names_of_own,
    raise_unless_gone,
    walk_own,
)

BINARY = getattr(os, "O_BINARY", 0)
NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""The errors for a path at which nothing exists."""
MODE = 0o666
"""Permissions of a new file, before the umask is applied."""


class Files(GuardedPaths):
    """Every file operation of sources and sinks, so that a test can let any of them fail."""

    def __init__(self) -> None:
        super().__init__()
        self._seek = threading.Lock()

    # reading

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

    # writing

    def create(self, path: Path, size: int) -> int:
        """Create a file that will have `size` bytes, and return its descriptor.

        Raises FileExistsError if the path exists.
        """
        return self._open_new(path)

    def write(self, fd: int, data: memoryview, offset: int) -> None:
        """Write all of `data` at `offset`.

        It is durable only after `sync`, which may report the failure of a write.
        """
        done = 0
        while done < len(data):
            done += self._write_some(fd, data[done:], offset + done)

    def open_append(self, path: Path, *, create: bool = True) -> int:
        """Open a small file to append to, and return its descriptor.

        A missing file is created. With `create=False` it raises FileNotFoundError.
        """
        flags = os.O_RDWR | os.O_APPEND | BINARY
        with self._place(path) as place:
            if not place.is_guarded:
                return place.open(flags | (os.O_CREAT if create else 0), MODE)
            try:
                return place.open(flags)
            except FileNotFoundError:
                if not create:
                    raise
            try:
                return place.open(flags | os.O_CREAT | os.O_EXCL, MODE)
            except FileExistsError:  # another process has just created it
                return place.open(flags)

    def append(self, fd: int, data: bytes | memoryview) -> None:
        """Write all of `data` at the end of the file."""
        left = memoryview(data)
        while left:
            left = left[self._append_some(fd, left) :]

    def truncate(self, fd: int, size: int) -> None:
        """Cut an open file to `size` bytes."""
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """Make a file's bytes durable.

        Never retried: after a failed fsync the system may have dropped the bytes, and a second one
        would succeed without them.
        """
        os.fsync(fd)

    def lock(self, fd: int) -> None:
        """Lock an open file until it is closed. Raises BlockingIOError if another has locked it."""
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    def close(self, fd: int) -> None:
        os.close(fd)

    def write_file(self, path: Path, content: bytes) -> None:
        """Create a small file with this content. It is durable on return."""
        fd = self.create_small(path)
        try:
            self.append(fd, content)
            self.sync(fd)
        except OSError as error:
            error.filename = str(path)
            raise
        finally:
            self.close(fd)

    def create_small(self, path: Path) -> int:
        """Create a file to append to, and return its descriptor.

        Raises FileExistsError if the path exists.
        """
        return self._open_new(path)

    # names

    def make_folder(self, path: Path) -> None:
        """Create a folder. Raises FileExistsError if the path exists."""
        with self._place(path) as place:
            os.mkdir(place.name, dir_fd=place.folder)

    def set_mode(self, path: Path, mode: int) -> None:
        """Set the permissions of a file or folder."""
        with self._place(path) as place:
            if not place.is_guarded:
                path.chmod(mode)
                return
            fd = os.open(place.name, os.O_RDONLY | NO_FOLLOW | NO_WAIT, dir_fd=place.folder)
            try:
                os.fchmod(fd, mode)
            finally:
                os.close(fd)

    def sync_folder(self, path: Path) -> None:
        """Make a folder's entries durable, if the system can."""

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file or folder. A file at a guarded target is replaced only if it is ours."""
        with self._place(source) as old, self._place(target) as new:
            if new.is_guarded and stat.S_ISREG(old.stat(follow=False).st_mode):
                new.check_if_there(is_folder=False)
            os.rename(old.name, new.name, src_dir_fd=old.folder, dst_dir_fd=new.folder)

    def unlink(self, path: Path) -> None:
        """Remove a file, if it exists."""
        with contextlib.suppress(FileNotFoundError), self._place(path) as place:
            place.check(is_folder=False)
            os.unlink(place.name, dir_fd=place.folder)

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        with self._place(path) as place:
            os.rmdir(place.name, dir_fd=place.folder)

    def _mode(self, path: Path, follow: bool) -> int | None:
        """Return kind and permissions of a path; None if nothing exists there."""
        try:
            return self.stat(path, follow=follow).st_mode
        except OSError as error:
            if error.errno not in NOTHING_THERE:
                raise
            return None

    def _open_new(self, path: Path) -> int:
        with self._place(path) as place:
            return place.open(os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, MODE)

    def _read_some(self, fd: int, buffer: memoryview, offset: int) -> int:
        with self._seek:
            os.lseek(fd, offset, os.SEEK_SET)
            data = os.read(fd, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _write_some(self, fd: int, data: memoryview, offset: int) -> int:
        with self._seek:
            os.lseek(fd, offset, os.SEEK_SET)
            return os.write(fd, data)

    def _append_some(self, fd: int, data: memoryview) -> int:
        return os.write(fd, data)

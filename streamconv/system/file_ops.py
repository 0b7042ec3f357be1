"""File operations that write, on every operating system.

They raise OSError. Callers turn it into errors with a message for people.
"""

import contextlib
import errno
import os
import stat
from pathlib import Path

from streamconv.system.file_reads import BINARY, FileReads
from streamconv.system.planted import NO_FOLLOW, NO_WAIT

MODE = 0o666
"""Permissions of a new file, before the umask is applied."""


class Files(FileReads):
    """Every file operation of sources and sinks, so that a test can let any of them fail."""

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

    def set_owner(self, path: Path, user: int, group: int) -> None:
        """Set the user and the group that a file or folder belongs to."""
        with self._place(path) as place:
            follow = not place.is_guarded
            os.chown(place.name, user, group, dir_fd=place.folder, follow_symlinks=follow)

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

    def _open_new(self, path: Path) -> int:
        with self._place(path) as place:
            return place.open(os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, MODE)

    def _write_some(self, fd: int, data: memoryview, offset: int) -> int:
        with self._seek:
            os.lseek(fd, offset, os.SEEK_SET)
            return os.write(fd, data)

    def _append_some(self, fd: int, data: memoryview) -> int:
        return os.write(fd, data)

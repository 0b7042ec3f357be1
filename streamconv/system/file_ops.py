"""File operations with nothing but what every operating system has.

Errors are OSError; callers give them words.
"""

import contextlib
import errno
import mmap
import os
import shutil
import stat
import threading
from pathlib import Path

BINARY = getattr(os, "O_BINARY", 0)
NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""What the system says of a path at which there is nothing."""
MODE = 0o666
"""What files are made with; the umask takes away from it."""

HUGE_PAGE = 2 * 2**20


def new_buffer(nbytes: int) -> memoryview:
    """Writable memory, zero, taken only where touched.

    In huge pages where the system has them: striding through a matrix of small ones costs more
    in look-ups of addresses than in bytes.
    """
    memory = mmap.mmap(-1, max(nbytes, 1))
    if nbytes >= HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


class Files:
    """All that sources and sinks do to files, so that a test can let any of it fail."""

    def __init__(self) -> None:
        self._seek = threading.Lock()

    # reading

    def open_read(self, path: Path) -> int:
        """A descriptor to read a regular file from."""
        return os.open(path, os.O_RDONLY | BINARY)

    def read_into(self, fd: int, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`; returns the bytes read, fewer only at the file's end."""
        done = 0
        while done < len(buffer):
            count = self._read_some(fd, buffer[done:], offset + done)
            if count == 0:
                break
            done += count
        return done

    def read_file(self, path: Path) -> bytes:
        """All of a small file."""
        return path.read_bytes()

    def stat(self, file: int | Path, *, follow: bool = True) -> os.stat_result:
        """What the system says of a file, open or by its path; of a link itself unless followed."""
        return os.fstat(file) if isinstance(file, int) else file.stat(follow_symlinks=follow)

    def exists(self, path: Path, *, follow: bool = True) -> bool:
        """Whether anything is there; a link that leads nowhere only where it is not followed."""
        return self._mode(path, follow) is not None

    def is_folder(self, path: Path) -> bool:
        """Whether a folder is there, or a link to one."""
        mode = self._mode(path, True)
        return mode is not None and stat.S_ISDIR(mode)

    def is_link(self, path: Path) -> bool:
        """Whether a link is there, wherever it leads."""
        mode = self._mode(path, False)
        return mode is not None and stat.S_ISLNK(mode)

    def real_path(self, path: Path) -> Path:
        """Where a path leads when every link is followed; fails where nothing is there."""
        return Path(os.path.realpath(path, strict=True))

    def names(self, folder: Path) -> list[str]:
        """What is in a folder, sorted."""
        return sorted(path.name for path in folder.iterdir())

    def walk(self, folder: Path) -> list[Path]:
        """Every file below a folder, sorted."""

        def fail(error: OSError) -> None:
            raise error

        found = os.walk(folder, onerror=fail)
        return sorted(Path(path, name) for path, _, names in found for name in names)

    # writing

    def create(self, path: Path, size: int) -> int:
        """A descriptor to write a new file of `size` bytes; fails where `path` is there."""
        return self._open_new(path)

    def write(self, fd: int, data: memoryview, offset: int) -> None:
        """Write all of `data` at `offset`. It is durable after `sync`, which may be what fails."""
        done = 0
        while done < len(data):
            done += self._write_some(fd, data[done:], offset + done)

    def open_append(self, path: Path, *, create: bool = True) -> int:
        """A descriptor to add to a small file; a new one where there is none, unless not to."""
        return os.open(path, os.O_RDWR | os.O_APPEND | BINARY | (os.O_CREAT if create else 0), MODE)

    def append(self, fd: int, data: bytes | memoryview) -> None:
        """Write all of `data` behind what has been written."""
        left = memoryview(data)
        while left:
            left = left[self._append_some(fd, left) :]

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """Make a file's bytes durable. Where that fails, they are lost: it is not tried again."""
        os.fsync(fd)

    def lock(self, fd: int) -> None:
        """Lock an open file until it is closed; BlockingIOError where another has it."""
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    def close(self, fd: int) -> None:
        os.close(fd)

    def write_file(self, path: Path, content: bytes) -> None:
        """A new small file, durable on return."""
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
        """A descriptor to append to a new file with; fails where `path` is there."""
        return self._open_new(path)

    # names

    def make_folder(self, path: Path) -> None:
        """A new folder; fails where `path` is there."""
        path.mkdir()

    def set_mode(self, path: Path, mode: int) -> None:
        """Give a file or folder these permissions."""
        path.chmod(mode)

    def sync_folder(self, path: Path) -> None:
        """Make a folder's entries durable, where the system can."""

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def unlink(self, path: Path) -> None:
        """Remove a file; nothing happens where there is none."""
        path.unlink(missing_ok=True)

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        path.rmdir()

    def remove_tree(self, path: Path) -> None:
        """Remove a folder and all that is in it."""
        shutil.rmtree(path)

    def _mode(self, path: Path, follow: bool) -> int | None:
        try:
            return self.stat(path, follow=follow).st_mode
        except OSError as error:
            if error.errno not in NOTHING_THERE:
                raise
            return None

    def _open_new(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, MODE)

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

"""File operations, one place for what operating systems do differently.

`Files` is the portable path. `LinuxFiles` adds what makes a conversion as fast as the disk:
reads at an offset, space allocated before the first byte, and writes that pass by the page
cache (`O_DIRECT`), for which offset, length and address have to be multiples of `PAGE`. Both
keep the same contract and run the same tests. Errors are OSError; callers give them words.
"""

import contextlib
import errno
import mmap
import os
import sys
import threading
from pathlib import Path

PAGE = 4096
"""What direct writes are aligned to, in bytes: the page of every common machine and disk."""


HUGE_PAGE = 2 * 2**20


def page_floor(offset: int) -> int:
    """`offset` rounded down to a multiple of PAGE."""
    return offset & -PAGE


def page_ceil(offset: int) -> int:
    """`offset` rounded up to a multiple of PAGE."""
    return -(-offset // PAGE) * PAGE


def aligned_buffer(nbytes: int) -> memoryview:
    """Writable memory of at least `nbytes`, page-aligned, zero, taken only where touched.

    In huge pages where the system has them: striding through a matrix of small ones costs more
    in look-ups of addresses than in bytes.
    """
    memory = mmap.mmap(-1, max(page_ceil(nbytes), PAGE))
    if nbytes >= HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


class Files:
    """File operations with nothing but what every operating system has."""

    def __init__(self) -> None:
        self._seek = threading.Lock()

    def open_read(self, path: Path) -> int:
        """A descriptor to read a regular file from."""
        return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def read_into(self, fd: int, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`; returns the bytes read, fewer only at the file's end."""
        done = 0
        while done < len(buffer):
            count = self._read_some(fd, buffer[done:], offset + done)
            if count == 0:
                break
            done += count
        return done

    def create(self, path: Path, size: int) -> int:
        """A descriptor to write a new file of `size` bytes; fails where `path` is there."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        return os.open(path, flags, 0o666)

    def write(self, fd: int, data: memoryview, offset: int) -> None:
        """Write all of `data` at `offset`; both page-aligned, as is the length."""
        done = 0
        while done < len(data):
            done += self._write_some(fd, data[done:], offset + done)

    def finish(self, fd: int, size: int) -> None:
        """Cut the file to its `size` and make it durable; the descriptor is closed by `close`."""
        os.ftruncate(fd, size)
        os.fsync(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def write_file(self, path: Path, content: bytes) -> None:
        """A new small file, durable on return."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)

    def sync_folder(self, path: Path) -> None:
        """Make a folder's entries durable, where the system can."""

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

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


class LinuxFiles(Files):
    """The fast path; where a file system refuses part of it, that part is done without."""

    def create(self, path: Path, size: int) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            fd = os.open(path, flags | os.O_DIRECT, 0o666)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            path.unlink(missing_ok=True)
            fd = os.open(path, flags, 0o666)
        try:
            os.posix_fallocate(fd, 0, page_ceil(size))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                os.close(fd)
                path.unlink(missing_ok=True)
                raise
        return fd

    def sync_folder(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _read_some(self, fd: int, buffer: memoryview, offset: int) -> int:
        return os.preadv(fd, [buffer], offset)

    def _write_some(self, fd: int, data: memoryview, offset: int) -> int:
        return os.pwrite(fd, data, offset)


def system_files() -> Files:
    """The file operations for this operating system."""
    return LinuxFiles() if sys.platform == "linux" else Files()

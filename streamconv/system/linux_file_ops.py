"""File operations of Linux that keep up with the disk; the same contract as `Files`.

Bytes are read and written at an offset. The space of a file is allocated before its first byte, and
bytes start on their way to the disk as soon as they are written. A file system that supports
neither is slower, but the result is the same.
"""

import ctypes
import errno
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

from streamconv.system.file_ops import Files
from streamconv.system.mounts import has_local_locks
from streamconv.system.writeback import Writeback

if sys.platform == "linux":
    import fcntl

NO_SUCH_CALL = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ESPIPE)
"""The errors of a file system that cannot allocate, sync a range or sync a folder: the system then
decides where and when to write."""
SYNC_RANGE_WRITE = 2
SYNC_RANGE_WAIT = 1 | 2 | 4
"""Flags of `sync_file_range`: start to write dirty pages; start and wait. Source: linux/fs.h."""

C_ARGUMENTS = {
    "sync_file_range": (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint),
    "fallocate": (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64),
}
"""The arguments of the functions that are called in the C library. Source: fcntl.h."""

ADVICE_BYTES = 2**17
"""How much one call of `posix_fadvise` reads ahead, if the system does not tell or tells less."""


class LinuxFiles(Files):
    """The operations of `Files`, with a write-back window for each file that is written."""

    def __init__(self) -> None:
        super().__init__()
        self._writebacks: dict[int, Writeback] = {}

    def read_ahead(self, fd: int, offset: int, nbytes: int) -> None:
        if nbytes and not (_is_cached(fd, offset) and _is_cached(fd, offset + nbytes - 1)):
            step = _advice_bytes(os.fstat(fd).st_dev)
            for begin in range(offset, offset + nbytes, step):
                count = min(step, offset + nbytes - begin)
                os.posix_fadvise(fd, begin, count, os.POSIX_FADV_WILLNEED)

    def create(self, path: Path, size: int) -> int:
        fd = self._open_new(path)
        try:
            self._allocate(fd, size)
        except OSError as error:
            if error.errno not in (*NO_SUCH_CALL, errno.EINVAL):
                self.close(fd)
                self.unlink(path)
                raise
        self._writebacks[fd] = Writeback()
        return fd

    def write(self, fd: int, data: memoryview, offset: int) -> None:
        super().write(fd, data, offset)
        self._sync_range(fd, offset, len(data), SYNC_RANGE_WRITE)
        for begin, nbytes in self._writebacks[fd].start(offset, len(data)):
            self._sync_range(fd, begin, nbytes, SYNC_RANGE_WAIT)
            os.posix_fadvise(fd, begin, nbytes, os.POSIX_FADV_DONTNEED)

    def close(self, fd: int) -> None:
        self._writebacks.pop(fd, None)
        super().close(fd)

    def lock(self, fd: int) -> None:
        """Lock an open file, as `Files` does.

        Raises OSError with ENOLCK if others on this host are excluded, but those of other hosts are
        not.
        """
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if has_local_locks(os.fstat(fd).st_dev):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    def sync_folder(self, path: Path) -> None:
        with self._place(path) as place:
            flags = os.O_RDONLY | os.O_DIRECTORY | (os.O_NOFOLLOW if place.is_guarded else 0)
            fd = os.open(place.name, flags, dir_fd=place.folder)
        try:
            self.sync(fd)
        except OSError as error:
            if error.errno not in (*NO_SUCH_CALL, errno.EINVAL):
                raise
        finally:
            os.close(fd)

    def _allocate(self, fd: int, size: int) -> None:
        """Allocate the space of a new file. Raises OSError, also if the file system cannot.

        Not by `posix_fallocate`: where the file system cannot, the C library writes a byte to each
        block, which takes as long as the file itself, and no signal ends it.
        """
        call = _c_function("fallocate")
        while call is not None and call(fd, 0, 0, size):
            number = ctypes.get_errno()
            if number != errno.EINTR:
                raise OSError(number, os.strerror(number))

    def _read_some(self, fd: int, buffer: memoryview, offset: int) -> int:
        return os.preadv(fd, [buffer], offset)

    def _write_some(self, fd: int, data: memoryview, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def _sync_range(self, fd: int, offset: int, nbytes: int, flags: int) -> None:
        call = _c_function("sync_file_range")
        if call is not None and call(fd, offset, nbytes, flags):
            number = ctypes.get_errno()
            if number not in NO_SUCH_CALL:
                raise OSError(number, os.strerror(number))


@functools.cache
def _advice_bytes(device: int) -> int:
    """Return how many bytes of a device one call of `posix_fadvise` reads ahead."""
    setting = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
    try:
        return max(int(Path(setting).read_bytes()) * 1024, ADVICE_BYTES)
    except (OSError, ValueError):
        return ADVICE_BYTES


def _is_cached(fd: int, offset: int) -> bool:
    """Return True if a byte of a file can be read without waiting for the disk."""
    try:
        return os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT) > 0
    except OSError:
        return False


@functools.cache
def _c_function(name: str) -> Callable[[int, int, int, int], int] | None:
    """Return a function of the C library that Python does not offer; None if it is missing.

    Args:
        name: `sync_file_range`, of a descriptor, an offset, a size and flags; or `fallocate`, of a
            descriptor, a mode, an offset and a size.
    """
    try:
        call = getattr(ctypes.CDLL(None, use_errno=True), name)
    except AttributeError:
        return None
    call.argtypes = C_ARGUMENTS[name]
    call.restype = ctypes.c_int
    return cast(Callable[[int, int, int, int], int], call)


def system_files() -> Files:
    """Return the file operations for this operating system."""
    return LinuxFiles() if sys.platform == "linux" else Files()

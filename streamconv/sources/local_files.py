"""The files of a folder that tensors are read from: each opened once, and held against its plan."""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from streamconv.errors import BadCheckpoint, IOFailed, SourceChanged, quoted
from streamconv.sources.safe_paths import is_below, resolve_file
from streamconv.system.file_ops import Files


@dataclass(frozen=True, slots=True)
class FileStat:
    """What tells that an open file has been written to."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, files: Files, fd: int) -> "FileStat":
        stat = files.stat(fd)
        return cls(stat.st_size, stat.st_mtime_ns)


def check_stamp(files: Files, fd: int, name: str, stamp: FileStat) -> None:
    """Raises SourceChanged where an open file has been written to since its stamp was taken."""
    try:
        same = FileStat.of(files, fd) == stamp
    except OSError as error:
        raise IOFailed(f"{quoted(name)}: looking at it failed: {error.strerror}") from error
    if not same:
        raise SourceChanged(f"{quoted(name)} has changed while it was read")


def check_size(name: str, planned: int, size: int) -> None:
    """Raises SourceChanged where a file has another size than it was planned with."""
    if size != planned:
        raise SourceChanged(
            f"{quoted(name)} has changed since it was planned: it had {planned} bytes, "
            f"it has {size}"
        )


class LocalFiles:
    """The files of a folder, each opened once and held against what it was then.

    `check` is given name, descriptor and size of each as it is opened, and raises SourceChanged
    where it is not as planned.
    """

    def __init__(
        self, folder: Path, files: Files, check: Callable[[str, int, int], None] | None = None
    ) -> None:
        self._folder = folder
        self._files = files
        self._check = check or self._check_size
        self._open: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._stamps: dict[str, FileStat] = {}
        self._lock = threading.Lock()

    def size(self, name: str) -> int:
        """Bytes of a file; refuses what is not a regular file of the folder."""
        if name not in self._sizes:
            if not is_below(name):
                raise BadCheckpoint(
                    f"{quoted(name)} is said to hold chunks, and is not the name of a file below "
                    f"{self._folder}"
                )
            self._sizes[name] = resolve_file(self._folder, name, self._files)[1].st_size
        return self._sizes[name]

    def read_exact(self, name: str, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`; refuses a file that has become shorter."""
        if self.read(name, offset, buffer) < len(buffer):
            raise SourceChanged(f"{quoted(name)} has become shorter since it was planned")

    def bytes_at(self, name: str, offset: int, count: int) -> bytes:
        buffer = bytearray(count)
        return bytes(buffer[: self.read(name, offset, memoryview(buffer))])

    def read(self, name: str, offset: int, buffer: memoryview, what: str = "") -> int:
        """Read from `offset`; returns the bytes read, fewer where the file ends.

        `what` names in errors that which is read. Raises IOFailed or SourceChanged.
        """
        try:
            return self._files.read_into(self._descriptor(name), buffer, offset)
        except OSError as error:
            raise IOFailed(
                f"{quoted(name)}: reading {f'{what} ' if what else ''}failed: {error.strerror}"
            ) from error

    def _descriptor(self, name: str) -> int:
        with self._lock:
            if name not in self._open:
                fd = self._files.open_read(self._folder / name)
                try:
                    self._stamps[name] = FileStat.of(self._files, fd)
                    self._check(name, fd, self._stamps[name].size)
                except BaseException:
                    self._files.close(fd)
                    raise
                self._open[name] = fd
            return self._open[name]

    def _check_size(self, name: str, fd: int, size: int) -> None:
        check_size(name, self._sizes.setdefault(name, size), size)

    def check_unchanged(self) -> None:
        """Raises SourceChanged where a file that was read has been written to since."""
        with self._lock:
            for name, fd in self._open.items():
                check_stamp(self._files, fd, name, self._stamps[name])

    def close(self) -> None:
        with self._lock:
            for fd in self._open.values():
                with suppress(OSError):
                    self._files.close(fd)
            self._open.clear()

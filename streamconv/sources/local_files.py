"""The files of a folder that tensors are read from: each is opened once and watched for changes."""

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
    """The facts of an open file that change if it is written to."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, files: Files, fd: int) -> "FileStat":
        stat = files.stat(fd)
        return cls(stat.st_size, stat.st_mtime_ns)


def check_size(name: str, planned: int, size: int) -> None:
    """Raise SourceChanged if the size of a file is not the planned one."""
    if size != planned:
        raise SourceChanged(
            f"{quoted(name)} has changed since it was planned: it had {planned} bytes, "
            f"it has {size}"
        )


class LocalFiles:
    """The files of a folder, by name. Several threads may read at the same time.

    A file is opened when it is first read, and stays open until `close`.
    """

    def __init__(
        self,
        folder: Path,
        files: Files,
        check_opened: Callable[[str, int, int], None] | None = None,
    ) -> None:
        """Prepare to read; nothing is opened yet.

        Args:
            folder: The folder of the files.
            files: The file operations to use.
            check_opened: Called with name, descriptor and size of every file that is opened.
                Raises SourceChanged if the file is not as planned. By default the size has to be
                what `size` returned.
        """
        self._folder = folder
        self._files = files
        self._check_opened = check_opened or self._check_size
        self._open: dict[str, int] = {}
        """The descriptors, by name."""
        self._sizes: dict[str, int] = {}
        self._stats: dict[str, FileStat] = {}
        """Of each file, as it was opened."""
        self._lock = threading.Lock()

    def size(self, name: str) -> int:
        """Return the bytes of a file. Raises BadCheckpoint if it is no regular file below."""
        if name not in self._sizes:
            if not is_below(name):
                raise BadCheckpoint(
                    f"cannot read {quoted(name)}: it should hold chunks, and is not the name of a "
                    f"file below {self._folder}"
                )
            self._sizes[name] = resolve_file(self._folder, name, self._files)[1].st_size
        return self._sizes[name]

    def read(self, name: str, offset: int, buffer: memoryview, subject: str = "") -> int:
        """Read bytes of a file.

        Args:
            name: The file.
            offset: Bytes from its beginning.
            buffer: Filled from its beginning.
            subject: The thing that is read, for errors.

        Returns:
            The number of bytes read, fewer than `len(buffer)` only at the end of the file.

        Raises:
            SourceChanged: The file is not as planned.
            IOFailed: It cannot be opened or read.
        """
        try:
            return self._files.read_into(self._descriptor(name), buffer, offset)
        except OSError as error:
            if subject:
                raise IOFailed(
                    f"cannot read {subject} from {quoted(name)}: {error.strerror}"
                ) from error
            raise IOFailed(f"cannot read {quoted(name)}: {error.strerror}") from error

    def read_exact(self, name: str, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset` on. Raises SourceChanged if the file ends before."""
        if self.read(name, offset, buffer) < len(buffer):
            raise SourceChanged(f"{quoted(name)} has become shorter since it was planned")

    def bytes_at(self, name: str, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset` on, or fewer at the end of the file."""
        buffer = bytearray(count)
        return bytes(buffer[: self.read(name, offset, memoryview(buffer))])

    def check_unchanged(self) -> None:
        """Raise SourceChanged if a file has been written to since it was opened."""
        with self._lock:
            for name, fd in self._open.items():
                try:
                    now = FileStat.of(self._files, fd)
                except OSError as error:
                    raise IOFailed(f"cannot look at {quoted(name)}: {error.strerror}") from error
                if now != self._stats[name]:
                    raise SourceChanged(f"{quoted(name)} has changed while it was read")

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            for fd in self._open.values():
                with suppress(OSError):
                    self._files.close(fd)
            self._open.clear()

    def _descriptor(self, name: str) -> int:
        with self._lock:
            if name not in self._open:
                fd = self._files.open_read(self._folder / name)
                try:
                    self._stats[name] = FileStat.of(self._files, fd)
                    self._check_opened(name, fd, self._stats[name].size)
                except BaseException:
                    self._files.close(fd)
                    raise
                self._open[name] = fd
            return self._open[name]

    def _check_size(self, name: str, fd: int, size: int) -> None:
        check_size(name, self._sizes.setdefault(name, size), size)

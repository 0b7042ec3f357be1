"""The files of a folder that tensors are read from, watched for changes."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from streamconv.errors import BadCheckpoint, IOFailed, SourceChanged, quoted
from streamconv.sources.open_files import OpenFiles
from streamconv.sources.safe_paths import is_below, resolve_file
from streamconv.system.absolute_paths import absolute_path
from streamconv.system.file_reads import FileReads
from streamconv.system.maps import FilePart, joined_map, neighbors_joined, private_map


def check_size(name: str, planned: int, size: int) -> None:
    """Raise SourceChanged if the size of a file is not the planned one."""
    if size != planned:
        raise SourceChanged(
            f"{quoted(name)} has changed since it was planned: it had {planned} bytes, "
            f"it has {size}"
        )


class LocalFiles:
    """The files of a folder, by name. Several threads may read at the same time.

    A file is opened when it is first read. A bounded number of them stays open until `close`.
    """

    def __init__(
        self,
        folder: Path,
        files: FileReads,
        check_opened: Callable[[str, int, int], None] | None = None,
    ) -> None:
        """Prepare to read; nothing is opened yet.

        Args:
            folder: The folder of the files. It stays the same if the working directory changes.
            files: The file operations to use.
            check_opened: Called with name, descriptor and size of a file that is first opened.
                Raises SourceChanged if the file is not as planned. By default the size has to be
                what `size` returned.
        """
        folder = absolute_path(folder)
        self._folder = folder
        self._files = files
        self._sizes: dict[str, int] = {}
        self._maps: dict[str, memoryview] = {}
        self._map_lock = threading.Lock()
        self._open = OpenFiles(files, lambda name: folder / name, check_opened or self._check_size)

    def size(self, name: str) -> int:
        """Return a file's size, and watch the file from now on.

        Raises BadCheckpoint if it is not a regular file in the folder.
        """
        if name not in self._sizes:
            if not is_below(name):
                raise BadCheckpoint(
                    f"cannot read {quoted(name)}: it should hold chunks, and is not the name of a "
                    f"file below {self._folder}"
                )
            self._sizes[name] = resolve_file(self._folder, name, self._files)[1].st_size
            self.watch(name)
        return self._sizes[name]

    def watch(self, name: str) -> None:
        """Record the state of a file, which may not change until it is first read. Never raises."""
        self._open.watch(name)

    def read(self, name: str, offset: int, buffer: memoryview, tensor: str = "") -> int:
        """Read bytes of a file.

        Args:
            name: The file.
            offset: Bytes from its beginning.
            buffer: Filled from its beginning.
            tensor: Name of the tensor whose bytes they are, for errors; empty if of none.

        Returns:
            The number of bytes read, fewer than `len(buffer)` only at the end of the file.

        Raises:
            SourceChanged: The file is not as planned.
            IOFailed: It cannot be opened or read.
        """
        try:
            with self._open.descriptor(name) as fd:
                return self._files.read_into(fd, buffer, offset)
        except OSError as error:
            if tensor:
                raise IOFailed(
                    f"cannot read tensor {quoted(tensor)} from {quoted(name)}: {error.strerror}"
                ) from error
            raise IOFailed(f"cannot read {quoted(name)}: {error.strerror}") from error

    def expect(self, name: str, offset: int, nbytes: int) -> None:
        """Start to bring bytes of a file into memory, if it is open. Never raises."""
        with suppress(OSError), self._open.open_descriptor(name) as fd:
            if fd is not None:
                self._files.read_ahead(fd, offset, nbytes)

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
        self._open.check_unchanged()

    def check_file(self, name: str) -> None:
        """Raise SourceChanged if one file has been written to or replaced since it was opened."""
        self._open.check_file(name)

    def mapped(self, parts: Sequence[FilePart]) -> memoryview | None:
        """Return parts of files, one after the other, as a private map.

        Returns:
            The map, which may be written to and outlives this object; None if maps of the parts
            cannot be joined.

        Raises:
            SourceChanged: A file is not as planned.
            IOFailed: A file cannot be opened or mapped.
        """
        first, *others = parts = list(neighbors_joined(parts))
        try:
            if others:
                return joined_map(parts, self._open.descriptor, self._files)
            return self._whole(first.file)[first.offset : first.offset + first.nbytes]
        except OSError as error:
            raise IOFailed(f"cannot map {quoted(first.file)}: {error.strerror}") from error

    def _whole(self, name: str) -> memoryview:
        """Return the map of a file. Raises OSError."""
        with self._map_lock:
            found = self._maps.get(name)
            if found is None:
                with self._open.descriptor(name) as fd:
                    found = self._maps[name] = private_map(fd)
            return found

    def close(self) -> None:
        """Close all files. Views of maps stay as they are."""
        self._maps.clear()
        self._open.close()

    def _check_size(self, name: str, fd: int, size: int) -> None:
        check_size(name, self._sizes.setdefault(name, size), size)

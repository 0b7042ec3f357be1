"""Files that are read again and again. A bounded number of them is open at a time.

A checkpoint may have more files than a process may open. A file stays open after it was read. If
too many are open, the one that has not been used for longest is closed. A file that is opened again
must not have changed in the meantime.
"""

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

from streamconv.errors import IOFailed, SourceChanged, quoted
from streamconv.sources.file_stat import FileStat
from streamconv.system.file_reads import FileReads
from streamconv.system.open_file_limit import files_held_open

TOO_MANY_OPEN = (errno.EMFILE, errno.ENFILE)
"""Errors of the system if this process, or all of them together, have too many files open."""


@dataclass(slots=True)
class _OpenFile:
    """A descriptor, and how many reads are using it."""

    fd: int
    users: int = 0


class _Lent:
    """The context in which a file is in use. A class, as reads are many and a generator is slow."""

    __slots__ = ("_file", "_take_back")

    def __init__(self, file: _OpenFile, take_back: Callable[[_OpenFile], None]) -> None:
        self._file = file
        self._take_back = take_back

    def __enter__(self) -> int:
        return self._file.fd

    def __exit__(self, *_: object) -> None:
        self._take_back(self._file)


class OpenFiles:
    """Files by name. Several threads may use them at the same time.

    A descriptor that is in use is never closed, so there may be as many more as there are threads.
    """

    def __init__(
        self,
        files: FileReads,
        path_of: Callable[[str], Path],
        check_opened: Callable[[str, int, int], None] | None = None,
        limit: int | None = None,
    ) -> None:
        """Prepare to open files; nothing is opened yet.

        Args:
            files: The file operations to use.
            path_of: Returns the path of a file, by its name.
            check_opened: Called with name, descriptor and size of a file that is opened for the
                first time. Raises SourceChanged if the file is not as planned.
            limit: How many files stay open between reads; by default what the system allows.
        """
        self._files = files
        self._path_of = path_of
        self._check_opened = check_opened
        self._limit = files_held_open() if limit is None else limit
        self._open: dict[str, _OpenFile] = {}
        """By name; the one that was used last is at the end."""
        self._stats: dict[str, FileStat] = {}
        """The facts of each file when it was first opened."""
        self._watched: dict[str, FileStat] = {}
        """The facts of files that were watched before they were opened."""
        self._lock = threading.Lock()

    def watch(self, name: str) -> None:
        """Record the facts of a file, which it has to have when it is first opened.

        A header alone does not show that other bytes were written under it. Never raises: what
        cannot be looked at cannot be opened either.
        """
        with suppress(OSError):
            self._watched[name] = FileStat.of(self._files, self._path_of(name))

    def descriptor(self, name: str) -> AbstractContextManager[int]:
        """Lend the descriptor of a file. It stays open at least until the context ends.

        Raises:
            SourceChanged: The file is not the one that was first opened, or not as planned.
            OSError: It cannot be opened.
        """
        with self._lock:
            file = self._open.pop(name, None)
            if file is None:
                self._close_unused(self._limit - 1)
                file = _OpenFile(self._open_checked(name))
            self._open[name] = file
            file.users += 1
        return _Lent(file, self._take_back)

    def _take_back(self, file: _OpenFile) -> None:
        with self._lock:
            file.users -= 1
            if file.users == 0 and len(self._open) > self._limit:
                self._close_unused(self._limit)

    @contextmanager
    def open_descriptor(self, name: str) -> Iterator[int | None]:
        """Lend the descriptor of a file if it is open, else None. It stays open in the context."""
        with self._lock:
            file = self._open.get(name)
            if file is not None:
                file.users += 1
        try:
            yield None if file is None else file.fd
        finally:
            if file is not None:
                with self._lock:
                    file.users -= 1

    def check_unchanged(self) -> None:
        """Check that every file is what it was when it was first opened.

        Raises:
            SourceChanged: A file was changed. If it is not open now, it may have been replaced.
            IOFailed: The file system does not answer.
        """
        for name, before in list(self._stats.items()):
            self._check(name, before, at_path=False)

    def check_file(self, name: str) -> None:
        """Check that one file is what it was, and that no other has taken its place.

        Raises what `check_unchanged` does.
        """
        before = self._stats.get(name)
        if before is not None:
            self._check(name, before, at_path=True)

    def _check(self, name: str, before: FileStat, *, at_path: bool) -> None:
        try:
            with self._lock:
                file = None if at_path else self._open.get(name)
                now = FileStat.of(self._files, file.fd if file else self._path_of(name))
        except FileNotFoundError:
            raise _changed(name) from None
        except OSError as error:
            raise IOFailed(f"cannot look at {quoted(name)}: {error.strerror}") from error
        if not before.is_same(now):
            raise _changed(name)

    def close(self) -> None:
        """Close all files. Never raises."""
        with self._lock:
            for file in self._open.values():
                self._close(file)
            self._open.clear()

    def _open_checked(self, name: str) -> int:
        """Open a file that is not open."""
        before = self._stats.get(name)
        # a FIFO may have taken the place of the file, and opening one would wait for ever
        if before and not before.is_same(FileStat.of(self._files, self._path_of(name))):
            raise _changed(name)
        if before is None and not S_ISREG(self._files.stat(self._path_of(name)).st_mode):
            raise _changed_since_planned(name)
        fd = self._open_or_make_room(name)
        try:
            now = FileStat.of(self._files, fd)
            if before is None:
                if self._check_opened:
                    self._check_opened(name, fd, now.size)
                if not self._watched.get(name, now).is_same(now):
                    raise _changed_since_planned(name)
                self._stats[name] = now
            elif not before.is_same(now):
                raise _changed(name)
        except BaseException:
            self._files.close(fd)
            raise
        return fd

    def _open_or_make_room(self, name: str) -> int:
        """Open a file. If there are too many open, close those that are not in use and try again.

        The limit may be lower than assumed, as others in this process open files, too.
        """
        try:
            return self._files.open_read(self._path_of(name))
        except OSError as error:
            if error.errno not in TOO_MANY_OPEN or not self._close_unused(0):
                raise
            return self._files.open_read(self._path_of(name))

    def _close_unused(self, most: int) -> int:
        """Close files that are not in use, oldest first, until `most` are open.

        Returns how many were closed.
        """
        surplus = len(self._open) - most
        if surplus <= 0:
            return 0
        names = [name for name, file in self._open.items() if file.users == 0][:surplus]
        for name in names:
            self._close(self._open.pop(name))
        return len(names)

    def _close(self, file: _OpenFile) -> None:
        with suppress(OSError):
            self._files.close(file.fd)


def _changed(name: str) -> SourceChanged:
    return SourceChanged(f"{quoted(name)} has changed while it was read")


def _changed_since_planned(name: str) -> SourceChanged:
    return SourceChanged(f"{quoted(name)} has changed since it was planned")

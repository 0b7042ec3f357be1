"""The lock of a run: no two runs work on the same target at the same time.

Each part of a run holds a `flock` on the file `DST.streamconv-lock-N`, which names its process. The
file is next to the partial folder, not in it, because that folder is renamed while the lock is
held. A crash leaves the file; the kernel has dropped the lock, so the next run takes it over.

On a file system without locks, or whose locks exclude only others on this host, the content
decides: the owner counts as alive unless its process is known to have ended. Only its own host can
know that, or the container that it runs in.
"""

import errno
import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from streamconv.errors import BadCheckpoint, IOFailed, OutputExists, quoted
from streamconv.formats.strict_json import parse_json_object
from streamconv.planning.partition import Partition
from streamconv.sinks.own_files import read_own_file
from streamconv.sinks.run_paths import RunPaths
from streamconv.system.file_ops import Files
from streamconv.system.file_reads import FileReads
from streamconv.system.host import host_of_processes
from streamconv.system.resources import start_time

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""The errors of file systems without locks."""
MAX_LOCK_BYTES = 4096
"""No lock file is larger."""
TRIES = 200
"""How often to retry a lock whose file was removed meanwhile."""
RETRY_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class LockOwner:
    """The process that holds a lock; the content of its file, as JSON."""

    number: int
    of: int
    """The part, and how many parts the run has."""
    host: str
    pid: int
    since: str | None
    """The start of the process as the kernel reports it, since pids are used again."""

    def is_well_formed(self) -> bool:
        """Return True if every field has the type, and a value, that a run writes."""
        numbers = (self.number, self.of, self.pid)
        return (
            all(type(number) is int and 0 < number < 2**31 for number in numbers)
            and isinstance(self.host, str)
            and isinstance(self.since, str | None)
        )

    def is_possibly_alive(self) -> bool:
        """Return False if the process has surely ended, which only its own host can know."""
        return self.host != host_of_processes() or start_time(self.pid) == self.since is not None


def read_first_lock(target: Path) -> bytes:
    """Return what part 1, or rank 0, has written into its lock; empty if there is none.

    The target is an absolute path.
    """
    with suppress(OSError):
        return FileReads().read_file(RunPaths(target).lock(1), MAX_LOCK_BYTES)
    return b""


class _Removed(FileNotFoundError):
    """The file of a lock was removed between opening and locking it."""


class Lock:
    """The lock of one part of a run.

    Parts of the same run work at the same time; any other two runs exclude each other.
    """

    def __init__(self, paths: RunPaths, part: Partition, files: Files) -> None:
        """Describe the lock; it is taken by `take`."""
        self._target = paths.target
        self._is_lock = paths.is_lock
        self._path = paths.lock(part.number)
        self._part = part
        self._files = files
        self._fd: int | None = None
        self._content = b""

    def check(self) -> None:
        """Check that no other run works on the target. Raises OutputExists if one does."""
        for path in self._other_locks():
            try:
                self._files.close(self._acquire(path, create=False))
            except FileNotFoundError:
                continue
            except BlockingIOError:
                if not self._is_of_this_run(path):
                    self._refuse(path)

    def take(self) -> None:
        """Take the lock. Raises OutputExists if another run works on the target.

        The other locks are checked after this one is taken. So if two runs start at the same
        moment, at least one of them is refused.
        """
        self._fd = self._create()
        pid = os.getpid()
        owner = LockOwner(
            self._part.number, self._part.of, host_of_processes(), pid, start_time(pid)
        )
        try:
            self._files.truncate(self._fd, 0)
            self._content = json.dumps(asdict(owner)).encode("ascii")
            self._files.append(self._fd, self._content)
            if self._part.of > 1:
                self._files.sync(self._fd)  # other hosts look for it
            self.check()
        except BaseException:
            self.release()
            raise

    def is_seen_in(self, folder: Path) -> bool:
        """Return True if the file of this lock, which is held, is in a folder, by whatever path."""
        with suppress(OSError):
            found = self._files.read_file(folder / self._path.name, MAX_LOCK_BYTES)
            return self._fd is not None and found == self._content
        return False

    def _create(self) -> int:
        """Create and lock the file of this lock; its last owner may remove it meanwhile."""
        for _ in range(TRIES):
            try:
                return self._acquire(self._path, create=True)
            except _Removed:
                time.sleep(RETRY_SECONDS)
            except BlockingIOError:
                self._refuse(self._path)
        raise IOFailed(
            f"cannot write to {self._target}: the lock {self._path} was removed {TRIES} times "
            "while it was taken",
            "wait until other runs have ended, or name a folder on another file system",
        )

    def release(self) -> None:
        """Release the lock, and remove its file and those of runs that have died."""
        if self._fd is None:
            return
        with suppress(OSError):
            for path in self._other_locks():
                with suppress(BlockingIOError, FileNotFoundError):
                    self._remove(path, self._acquire(path, create=False))
        fd, self._fd = self._fd, None
        with suppress(OSError):
            self._remove(self._path, fd)

    def _remove(self, path: Path, fd: int) -> None:
        """Remove the file of a lock while it is held, then release it."""
        try:
            self._files.unlink(path)
        finally:
            self._files.close(fd)

    def _other_locks(self) -> list[Path]:
        """List the locks on the target, without this one if it is held."""
        folder = self._target.parent
        try:
            names = self._files.names(folder)
        except FileNotFoundError:
            return []
        paths = [folder / name for name in names if self._is_lock(name)]
        return [path for path in paths if self._fd is None or path != self._path]

    def _acquire(self, path: Path, *, create: bool) -> int:
        """Open and lock a file.

        Args:
            path: The file of the lock.
            create: Create the file if it does not exist.

        Returns:
            Its descriptor, which holds the lock until it is closed.

        Raises:
            BlockingIOError: Another process holds the lock.
            FileNotFoundError: The file does not exist, or was removed meanwhile (_Removed).
            PlantedFile: There is something else at the path.
        """
        fd = self._files.open_append(path, create=create)
        try:
            try:
                self._files.lock(fd)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                owner = self._owner(path)
                if owner is not None and owner.is_possibly_alive():
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
            # the last owner may have removed the file since it was opened
            if not self._is_at(fd, path):
                raise _Removed(errno.ENOENT, os.strerror(errno.ENOENT))
        except BaseException:
            self._files.close(fd)
            raise
        return fd

    def _is_at(self, fd: int, path: Path) -> bool:
        """Return True if an open file is still the one at a path."""
        with suppress(FileNotFoundError):
            return os.path.samestat(self._files.stat(fd), self._files.stat(path))
        return False

    def _owner(self, path: Path) -> LockOwner | None:
        """Read the owner of a lock; None if it is not written yet, or is not an owner."""
        try:
            fields = parse_json_object(read_own_file(path, self._files, MAX_LOCK_BYTES), "lock")
            owner = LockOwner(**fields)
        except (OSError, TypeError, BadCheckpoint, OutputExists):
            return None
        return owner if owner.is_well_formed() else None

    def _is_of_this_run(self, path: Path) -> bool:
        """Return True if a lock belongs to another part of this run.

        An owner that is not written yet counts as such: it checks this lock once it is.
        """
        if path == self._path or self._part.of == 1:
            return False
        owner = self._owner(path)
        return owner is None or owner.of == self._part.of

    def _refuse(self, path: Path) -> NoReturn:
        """Raise the OutputExists that names the owner of a lock."""
        owner = self._owner(path)
        process = f"process {owner.pid} on {quoted(owner.host)}" if owner else "a process"
        raise OutputExists(
            f"cannot write to {self._target}: another run is working on it, {process}",
            f"wait until it ends; if it has surely ended, remove {path}",
        )

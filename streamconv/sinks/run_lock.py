"""One run at a time: who is at work on a target.

A file beside the target says who, and is locked with `flock` for as long as the run is at work;
so one that has died holds nothing, however it died. It lies beside the folder that is built, not
in it, as that folder is moved away at the end with the lock still held. Where a file system has
no locks, what the file says decides: its holder counts as at work unless its process is known
to be gone, which only its own host can tell.
"""

import errno
import json
import os
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from streamconv.errors import OutputExists, quoted
from streamconv.planning.partition import Partition
from streamconv.system.file_ops import Files
from streamconv.system.resources import started

LOCK_SUFFIX = ".streamconv-lock-"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems without locks say."""


@dataclass(frozen=True, slots=True)
class LockOwner:
    """Who holds a lock."""

    number: int
    of: int
    host: str
    pid: int
    since: str | None
    """When the process was started, as its system says it: pids are used again."""

    def is_possibly_alive(self) -> bool:
        """Whether it may still be at work; false where it is known to be gone."""
        return self.host != platform.node() or started(self.pid) == self.since is not None


class Lock:
    """The lock of one part of the run that builds `target`.

    Parts of the same number of parts work side by side; any other two runs exclude each other.
    """

    def __init__(self, target: Path, part: Partition, files: Files) -> None:
        self._target = target
        self._part = part
        self._files = files
        self._prefix = target.name + LOCK_SUFFIX
        self._path = target.with_name(f"{self._prefix}{part.number}")
        self._fd: int | None = None

    def check(self) -> None:
        """Raises OutputExists where another run is at work, with its pid and host."""
        for path in self._others():
            try:
                self._files.close(self._acquire(path, create=False))
            except FileNotFoundError:
                continue
            except BlockingIOError:
                if not self._works_beside(path):
                    self._refuse(path)

    def take(self) -> None:
        """Take the lock. Raises OutputExists where another run is at work.

        The others are looked at when it is taken: of two that begin at once, one is refused.
        """
        while self._fd is None:
            try:
                self._fd = self._acquire(self._path, create=True)
            except FileNotFoundError:
                continue
            except BlockingIOError:
                self._refuse(self._path)
        pid = os.getpid()
        holder = LockOwner(self._part.number, self._part.of, platform.node(), pid, started(pid))
        try:
            self._files.truncate(self._fd, 0)
            self._files.append(self._fd, json.dumps(asdict(holder)).encode("ascii"))
            self.check()
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let go of it; its file goes, and those of runs that have died."""
        if self._fd is None:
            return
        with suppress(OSError):
            for path in self._others():
                with suppress(BlockingIOError, FileNotFoundError):
                    self._remove(path, self._acquire(path, create=False))
        fd, self._fd = self._fd, None
        with suppress(OSError):
            self._remove(self._path, fd)

    def _remove(self, path: Path, fd: int) -> None:
        """Remove the file of a lock while it is held, and let go of it."""
        try:
            self._files.unlink(path)
        finally:
            self._files.close(fd)

    def _others(self) -> list[Path]:
        """The locks that are there, but for our own where we hold it."""
        folder = self._target.parent
        try:
            names = self._files.names(folder)
        except FileNotFoundError:
            return []
        paths = [folder / name for name in names if name.startswith(self._prefix)]
        return [path for path in paths if self._fd is None or path != self._path]

    def _acquire(self, path: Path, *, create: bool) -> int:
        """The locked file; BlockingIOError where it is another's, FileNotFoundError where gone."""
        fd = self._files.open_append(path, create=create)
        try:
            try:
                self._files.lock(fd)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                holder = self._holder(path)
                if holder is not None and holder.is_possibly_alive():
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
            # its last holder may have removed it since it was opened
            if not os.path.samestat(self._files.stat(fd), self._files.stat(path)):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        except BaseException:
            self._files.close(fd)
            raise
        return fd

    def _holder(self, path: Path) -> LockOwner | None:
        """Who holds a lock; None where that is not written yet."""
        try:
            return LockOwner(**json.loads(self._files.read_file(path)))
        except (OSError, ValueError, TypeError):
            return None

    def _works_beside(self, path: Path) -> bool:
        """Whether a lock is that of another part of this run.

        One that has not said yet looks at ours when it has.
        """
        if path == self._path or self._part.of == 1:
            return False
        holder = self._holder(path)
        return holder is None or holder.of == self._part.of

    def _refuse(self, path: Path) -> NoReturn:
        holder = self._holder(path)
        who = f"process {holder.pid} on {quoted(holder.host)}" if holder else "a process"
        raise OutputExists(
            f"{self._target}: another run is at work on it, {who}",
            f"wait for it; if it is surely gone, remove {path}",
        )

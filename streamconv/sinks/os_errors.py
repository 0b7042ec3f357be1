"""Errors of the operating system about the output, as errors of the package.

A full disk, an exhausted quota and a file size limit are NoSpace (exit code 7) and say how much is
missing; everything else is IOFailed (exit code 8). Nothing is removed or retried here: the shards
that are finished stay in the partial folder, see `workspace`.
"""

import errno
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from streamconv.errors import IOFailed, NoSpace, OutputExists, StreamconvError, quoted
from streamconv.sinks.next_run import RUN, NextRun
from streamconv.system.planted import PlantedFile
from streamconv.system.resources import file_size_limit, free_disk
from streamconv.units import show_size

HINTS = {
    errno.EACCES: "change its permissions, or name another folder",
    errno.EPERM: "change its permissions, or name another folder",
    errno.EROFS: "name a folder on a file system that can be written to",
    errno.ENAMETOOLONG: "name a folder with a shorter name",
    errno.EMFILE: "raise the limit of open files with `ulimit -n 1024`",
    errno.ELOOP: "remove the link, or name another folder",
}
"""What to do about errors whose cause is the path, and not the disk."""


class map_os_errors:  # noqa: N801 - used like a function
    """Raise every OSError of the block as OutputExists, NoSpace or IOFailed.

    A class, as every write has such a block: a generator takes twice the time.

    Raises:
        OutputExists: Somebody else made a file that has the name of one of ours.
        NoSpace: The disk is full, or a quota or the file size limit is exhausted.
        IOFailed: Any other OSError.
    """

    __slots__ = ("_left", "_next_run", "_path")

    def __init__(
        self, path: Path, left: Callable[[], int] = lambda: 0, next_run: NextRun = RUN
    ) -> None:
        """Prepare the messages.

        Args:
            path: The file or folder that the message names, if the error itself names none.
            left: Returns the bytes that are still to be written, for the message about a full disk.
            next_run: What that message says of the next run.
        """
        self._next_run = next_run
        self._path = path
        self._left = left

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, OSError):
            raise _explained(error, self._path, self._left, self._next_run) from error


def _explained(
    error: OSError, path: Path, left: Callable[[], int], next_run: NextRun
) -> StreamconvError:
    """Return the error of the package for one of the system."""
    if isinstance(error, PlantedFile):
        return OutputExists(
            f"cannot use {quoted(str(error.filename))}: {error.strerror}, "
            "and no run of streamconv has made that",
            "look at it, then remove it or name another target",
        )
    fact = f"{quoted(str(error.filename or path))}: {error.strerror or error}"
    if error.errno == errno.EFBIG:
        return _file_too_large(f"cannot write {fact}")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _disk_full(f"cannot write {fact}", free_disk(path.parent), left(), next_run)
    return IOFailed(f"cannot access {fact}", HINTS.get(error.errno or 0, ""))


def _file_too_large(message: str) -> NoSpace:
    """Build the error about a file that may not become larger."""
    limit = file_size_limit()
    if limit is None:
        return NoSpace(
            f"{message}; its file system takes no larger one",
            "start over with a smaller --max-shard-size, or name a target on another file system",
        )
    return NoSpace(
        f"{message}; this process may write at most {show_size(limit)} to a file",
        "lift the limit with `ulimit -f unlimited`",
    )


def _disk_full(message: str, free: int | None, left: int, next_run: NextRun) -> NoSpace:
    """Build the error about a full disk.

    Args:
        message: The file and the error of the system.
        free: Free bytes on the disk; None if unknown.
        left: Bytes that are still to be written.
        next_run: How to go on.
    """
    hint = f"make room on the disk, then {next_run.resume}"
    if free is None:
        return NoSpace(f"{message}; {show_size(left)} still to be written", hint)
    return NoSpace(
        f"{message}; {show_size(left)} still to be written, {show_size(free)} free", hint
    )

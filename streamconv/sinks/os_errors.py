"""What the operating system refuses a target, in words and with an exit code."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from streamconv.errors import IOFailed, NoSpace, quoted
from streamconv.system.resources import file_size_limit, free_disk
from streamconv.units import show_size


@contextmanager
def map_os_errors(path: Path, left: Callable[[], int] = lambda: 0) -> Iterator[None]:
    """Turns the errors about `path`, or a file that they name themselves; `left` tells the bytes
    that a full disk would have to take.

    Raises NoSpace or IOFailed.
    """
    try:
        yield
    except OSError as error:
        what = f"{quoted(str(error.filename or path))}: {error.strerror or error}"
        if error.errno == errno.EFBIG:
            limit = file_size_limit()
            allowed = f", {show_size(limit)} by the limit of this process" if limit else ""
            raise NoSpace(f"{what}{allowed}", "`ulimit -f unlimited` lifts it") from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = free_disk(path.parent)
            room = "" if free is None else f", {show_size(free)} free"
            raise NoSpace(f"{what}; {show_size(left())} still to be written{room}") from error
        raise IOFailed(what) from error

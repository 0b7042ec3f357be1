"""Files that environment variables name, and that libraries open on their own, without a timeout.

Opening a FIFO waits until another process writes to it, and a device may never end.
"""

import os
import stat
from pathlib import Path

from streamconv.errors import UsageError, quoted


def check_files_of(*variables: str) -> None:
    """Raise UsageError if an environment variable names what is no file, such as a FIFO."""
    for variable in variables:
        path = os.environ.get(variable, "")
        if path and not opens_at_once(path):
            raise UsageError(
                f"cannot use {variable}: {quoted(path)} is not a regular file",
                "set it to a file, or unset it",
            )


def opens_at_once(path: str) -> bool:
    """Return True if opening a path does not wait and reading it ends, or if it cannot be opened.

    The null device does both, and means that there is no such file.
    """
    status = status_of(path)
    if status is None or stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        return True
    null = status_of(os.devnull)
    return null is not None and stat.S_ISCHR(status.st_mode) and status.st_rdev == null.st_rdev


def status_of(path: str) -> os.stat_result | None:
    """Return the status of a path, links followed; None if there is nothing, or it is unknown."""
    try:
        return Path(path).stat()
    except (OSError, ValueError):
        return None

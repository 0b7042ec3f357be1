"""The standard streams of a process, which may be closed, or read by nobody."""

import io
import os
import sys
from contextlib import suppress


def open_standard_streams() -> None:
    """Open /dev/null in the place of standard streams that are closed.

    Otherwise the next file that is opened, such as a shard, would get the number of one of them.
    Characters that a stream cannot encode will be written as their escapes.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, io.TextIOWrapper(io.FileIO(os.devnull, "w"), encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """Flush the output, or drop it if nobody reads it: else the interpreter fails at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

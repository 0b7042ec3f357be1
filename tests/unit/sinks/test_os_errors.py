"""Errors of the operating system as errors of the package, with both facts and a way out."""

import errno
import os
from pathlib import Path

import pytest

from streamconv.errors import IOFailed, NoSpace, OutputExists, StreamconvError
from streamconv.sinks import os_errors
from streamconv.sinks.os_errors import map_os_errors
from streamconv.system.planted import PlantedFile

PATH = Path("/data/out")


def mapped(number: int, filename: str | None = None) -> StreamconvError:
    """Map the error with this number; returns what is raised."""
    with pytest.raises(StreamconvError) as caught, map_os_errors(PATH, lambda: 2000):
        raise OSError(number, os.strerror(number), filename)
    return caught.value


def test_a_broken_disk() -> None:
    """The file of the error itself is named, if it has one."""
    error = mapped(errno.EIO)
    assert isinstance(error, IOFailed)
    assert error.message == "cannot access /data/out: Input/output error"
    assert mapped(errno.EIO, "/other").message == "cannot access /other: Input/output error"


@pytest.mark.parametrize(
    ("number", "fact", "hint"),
    [
        (
            errno.EACCES,
            "Permission denied",
            "change its permissions, or name another folder",
        ),
        (
            errno.EPERM,
            "Operation not permitted",
            "change its permissions, or name another folder",
        ),
        (
            errno.EROFS,
            "Read-only file system",
            "name a folder on a file system that can be written to",
        ),
        (errno.ENAMETOOLONG, "File name too long", "name a folder with a shorter name"),
        (
            errno.EMFILE,
            "Too many open files",
            "raise the limit of open files with `ulimit -n 1024`",
        ),
        (
            errno.ELOOP,
            "Too many levels of symbolic links",
            "remove the link, or name another folder",
        ),
        (errno.EIO, "Input/output error", ""),
        (errno.ESTALE, "Stale file handle", ""),
    ],
)
def test_what_can_be_done(number: int, fact: str, hint: str) -> None:
    """Is said if the path is to blame, and nothing otherwise."""
    error = mapped(number)
    assert isinstance(error, IOFailed)
    assert (error.message, error.hint) == (f"cannot access /data/out: {fact}", hint)


def test_a_file_of_somebody_else() -> None:
    """It has a name of ours: the person looks at it before anything is removed."""
    with pytest.raises(OutputExists) as caught, map_os_errors(PATH):
        raise PlantedFile(Path("/data/out.lock"), "it is a FIFO")
    assert caught.value.message == (
        "cannot use /data/out.lock: it is a FIFO, and no run of streamconv has made that"
    )
    assert caught.value.hint == "look at it, then remove it or name another target"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(("free", "shown"), [(1500, ", 1.50 kB free"), (None, "")])
def test_a_full_disk(
    monkeypatch: pytest.MonkeyPatch, number: int, free: int | None, shown: str
) -> None:
    monkeypatch.setattr(os_errors, "free_disk", lambda folder: free)
    error = mapped(number)
    assert isinstance(error, NoSpace)
    fact = {errno.ENOSPC: "No space left on device", errno.EDQUOT: "Disk quota exceeded"}[number]
    words = f"cannot write /data/out: {fact}; 2.00 kB still to be written{shown}"
    assert error.message == words
    assert error.hint == "make room on the disk, then run the same command with --resume"


@pytest.mark.parametrize(
    ("limit", "shown", "hint"),
    [
        (4500, "; this process may write at most 4.50 kB to a file", "ulimit -f unlimited"),
        (None, "; its file system takes no larger one", "a smaller --max-shard-size"),
    ],
)
def test_a_file_that_may_not_be_larger(
    monkeypatch: pytest.MonkeyPatch, limit: int | None, shown: str, hint: str
) -> None:
    monkeypatch.setattr(os_errors, "file_size_limit", lambda: limit)
    error = mapped(errno.EFBIG)
    assert isinstance(error, NoSpace)
    assert error.message == f"cannot write /data/out: File too large{shown}"
    assert hint in error.hint


def test_other_errors_pass() -> None:
    with pytest.raises(ValueError, match="mine"), map_os_errors(PATH):
        raise ValueError("mine")

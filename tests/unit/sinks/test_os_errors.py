"""Errors of the operating system as errors of the package, with both facts and a way out."""

import errno
import os
from pathlib import Path

import pytest

from streamconv.errors import IOFailed, NoSpace, StreamconvError
from streamconv.sinks import os_errors
from streamconv.sinks.os_errors import HINTS, map_os_errors

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


@pytest.mark.parametrize("number", [*HINTS])
def test_a_path_that_cannot_be_used(number: int) -> None:
    """What can be done about it is said."""
    assert mapped(number).hint == HINTS[number]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(("free", "shown"), [(1500, ", 1.50 kB free"), (None, "")])
def test_a_full_disk(
    monkeypatch: pytest.MonkeyPatch, number: int, free: int | None, shown: str
) -> None:
    monkeypatch.setattr(os_errors, "free_disk", lambda folder: free)
    error = mapped(number)
    assert isinstance(error, NoSpace)
    words = f"cannot write /data/out: {os.strerror(number)}; 2.00 kB still to be written{shown}"
    assert error.message == words
    assert "--resume" in error.hint


@pytest.mark.parametrize(("limit", "shown"), [(4500, "at most 4.50 kB to a file"), (None, "")])
def test_a_file_that_may_not_be_larger(
    monkeypatch: pytest.MonkeyPatch, limit: int | None, shown: str
) -> None:
    monkeypatch.setattr(os_errors, "file_size_limit", lambda: limit)
    error = mapped(errno.EFBIG)
    assert isinstance(error, NoSpace)
    assert error.message.startswith("cannot write /data/out: File too large")
    assert error.message.endswith(shown)
    assert "ulimit -f" in error.hint


def test_other_errors_pass() -> None:
    with pytest.raises(ValueError, match="mine"), map_os_errors(PATH):
        raise ValueError("mine")

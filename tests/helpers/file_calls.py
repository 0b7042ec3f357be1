"""What the tests of the file operations share: contents, writes in a given order, failing calls."""

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from streamconv.system.file_ops import Files

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="calls that only Linux has")
PAGE = 4096


def content(nbytes: int) -> bytes:
    """Return bytes that differ from those around them at most offsets."""
    return bytes((k * 31 + k // 251) % 256 for k in range(nbytes))


def refusing(call: Callable[..., Any], number: int) -> Callable[..., Any]:
    """Return a replacement for a call of the system that fails with this error number."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    refuse.__name__ = call.__name__
    return refuse


def written(files: Files, path: Path, data: bytes, runs: Iterable[tuple[int, int]]) -> bytes:
    """Write these ranges of `data` in their order, and return what the file holds then."""
    fd = files.create(path, len(data))
    try:
        for begin, end in runs:
            files.write(fd, memoryview(data)[begin:end], begin)
        files.sync(fd)
    finally:
        files.close(fd)
    return path.read_bytes()

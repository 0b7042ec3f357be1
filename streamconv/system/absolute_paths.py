"""Paths from the root on that lead where the system itself goes."""

import os
from pathlib import Path


def absolute_path(path: str | os.PathLike[str]) -> Path:
    """Return an absolute path, in which every `..` is resolved and other links stay.

    After a link, `..` is the folder above its target. `os.path.abspath` takes the one above the
    link instead, which may hold another folder of the same name.

    Args:
        path: A path, absolute or from the working directory. It need not exist.

    Raises:
        FileNotFoundError: It is from the working directory, which is gone.
    """
    parts = Path(path).parts
    if os.pardir not in parts:
        return Path(os.path.abspath(path))
    end = len(parts) - parts[::-1].index(os.pardir)
    return Path(os.path.realpath(Path(*parts[:end])), *parts[end:])

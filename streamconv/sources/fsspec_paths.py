"""The paths of this machine that a file system of fsspec reads.

They are taken from the file system that fsspec has opened, not from the text of its URL: fsspec
expands `~`, takes apart chains such as `simplecache://::/folder`, and has settings in files and
variables too. A file system may be local, keep copies in a local folder, or read through other
ones, down to a local one.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ANYWHERE = Path("/")
"""Returned for a local file system whose paths are unknown."""


def paths_read(filesystem: Any, path: str) -> tuple[Path, ...]:
    """Return the paths of this machine that are read for a path of a file system.

    Args:
        filesystem: A file system of fsspec.
        path: A path in it, as `fsspec.core.url_to_fs` returns it.

    Returns:
        Files and folders, each once: `path` itself, an archive, folders of copies. `ANYWHERE` if
        the file system reads local files that it does not name.
    """
    return tuple(dict.fromkeys(_paths_read(filesystem, path, set())))


def _paths_read(filesystem: Any, path: str, seen: set[int]) -> Iterator[Path]:
    from fsspec.implementations.cached import CachingFileSystem
    from fsspec.implementations.dirfs import DirFileSystem
    from fsspec.implementations.local import LocalFileSystem

    if id(filesystem) in seen:
        return
    seen.add(id(filesystem))
    if isinstance(filesystem, LocalFileSystem):
        local = Path(path)
        yield local if local.is_absolute() else ANYWHERE
        return
    if isinstance(filesystem, CachingFileSystem):
        yield from map(Path, filesystem.storage)
    if isinstance(filesystem, DirFileSystem):
        path = filesystem._join(path)
    for inner, inner_path in _read_through(filesystem, path):
        yield from _paths_read(inner, inner_path, seen)


def _read_through(filesystem: Any, path: str) -> Iterator[tuple[Any, str]]:
    """Yield the file systems that one holds, each with the path at which it is read.

    An open file that it holds, such as an archive, has its own file system and path.
    """
    from fsspec.spec import AbstractFileSystem

    # a cache hands out the attributes of the file system that it reads, in place of its own
    for held in _items(object.__getattribute__(filesystem, "__dict__").values()):
        if isinstance(held, AbstractFileSystem):
            yield held, path
        elif isinstance(getattr(held, "fs", None), AbstractFileSystem):
            yield held.fs, str(getattr(held, "path", ""))


def _items(values: Iterable[Any]) -> Iterator[Any]:
    """Yield values, and the items of those that are lists, tuples or dictionaries."""
    for value in values:
        yield value
        if isinstance(value, dict):
            yield from value.values()
        elif isinstance(value, list | tuple):
            yield from value

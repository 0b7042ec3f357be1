"""Names that not every file system keeps: each is tried before the first shard is written.

A source may have files whose names differ only in case or Unicode form, or have characters that FAT
refuses. Whether the file system of the target keeps them apart, and as they are, shows only when
they are made, and other files are copied last. So they are made empty first, listed, and removed.
"""

import errno
import os
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from streamconv.errors import IOFailed, quoted
from streamconv.sinks.file_copy import make_folders
from streamconv.system.file_ops import Files
from streamconv.system.spellings import folded

PLAIN_BYTES = 143
"""No file system in use has a lower limit for the length of a name."""
REFUSALS = (errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG, errno.ENOENT, errno.EPERM)
"""The errors of file systems for a name that they do not take."""
_REFUSED_BY_SOME = re.compile(r'[<>:"\\|?*\x00-\x1f\x7f]|[. ]$')
"""What FAT, NTFS or shares of Windows refuse or cut off."""


def unusual_names(names: Iterable[str]) -> list[str]:
    """Return the paths of a result that some file system would not keep as they are, or apart."""
    paths = [PurePosixPath(name) for name in names]
    steps = {step for path in paths for step in (path, *path.parents)}
    spellings = Counter(folded(str(step)) for step in steps)
    return [
        str(path)
        for path in paths
        if any(spellings[folded(str(step))] > 1 for step in (path, *path.parents))
        or any(map(_is_unusual, path.parts))
    ]


def _is_unusual(name: str) -> bool:
    return (
        normalize("NFC", name) != normalize("NFD", name)
        or len(os.fsencode(name)) > PLAIN_BYTES
        or _REFUSED_BY_SOME.search(name) is not None
    )


def check_kept_names(folder: Path, names: Iterable[str], files: Files) -> None:
    """Check that a folder keeps names as they are, and apart from each other.

    Args:
        folder: The partial folder, in which files of these names are not needed any more.
        names: The paths of files below it.
        files: The file operations.

    Raises:
        IOFailed: It does not.
    """
    tried = unusual_names(names)
    try:
        for name in tried:
            files.unlink(folder / name)
        for name in tried:
            _make(folder, name, files)
        _check_listed(folder, tried, files)
    finally:
        for name in tried:
            with suppress(OSError):
                files.unlink(folder / name)
        for above in sorted({above for name in tried for above in Path(name).parents[:-1]})[::-1]:
            with suppress(OSError):  # it holds shards, or another spelling has removed it
                files.remove_folder(folder / above)


def _make(folder: Path, name: str, files: Files) -> None:
    """Make an empty file."""
    try:
        make_folders(files, folder, name)
        files.close(files.create_small(folder / name))
    except FileExistsError:
        raise _not_kept(name, "takes it for the name of another file of the source") from None
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise _not_kept(name, f"refuses it: {error.strerror}") from error


def _check_listed(folder: Path, names: Iterable[str], files: Files) -> None:
    """Check that each name of all paths is listed by the folder above it."""
    listed: dict[PurePosixPath, frozenset[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        for step in (path, *path.parents[:-1]):
            if step.parent not in listed:
                listed[step.parent] = frozenset(files.names(folder / step.parent))
            if step.name not in listed[step.parent]:
                raise _not_kept(name, "keeps it under another one")


def _not_kept(name: str, fact: str) -> IOFailed:
    return IOFailed(
        f"cannot write {quoted(name)}: the file system of the target {fact}",
        "rename the file in the source, or name a target on another file system",
    )

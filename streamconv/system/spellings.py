"""Two spellings of one name, on a file system that takes names in any case or Unicode form.

There `Model` and `model` are one folder. Device and inode may differ all the same: many file
systems in user space, and shares of other hosts, number a file by the name that was asked for. But
a folder lists each entry once. So of two spellings of one entry, its folder lists at most one.
"""

import os
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from streamconv.system.identity import Identity, identity_of


def folded(name: str) -> str:
    """Return a name so that all of its spellings, in any case and Unicode form, are equal."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def listed_alike(name: str, listed: Iterable[str]) -> str | None:
    """Return the first listed name that differs only in case or Unicode form; None if none does."""
    return next((other for other in listed if folded(other) == folded(name)), None)


def spelled_twice(
    first: Mapping[Identity, Path], second: Mapping[Identity, Path]
) -> tuple[Path, Path] | None:
    """Find an entry of a folder through which two ways lead, each by another spelling.

    Args:
        first: What one way leads through, as `identities_on_the_way` returns it.
        second: The same of the other.

    Returns:
        Both spellings; None if there is no such entry, or if both have one identity.
    """
    folders = {step.parent: identity_of(step.parent) for step in second.values()}
    for one in first.values():
        folder = identity_of(one.parent)
        for other in second.values():
            is_beside = one.parent == other.parent or folder == folders[other.parent]
            if is_beside and one.name != other.name and _is_one_entry(one, other):
                return one, other
    return None


def _is_one_entry(one: Path, other: Path) -> bool:
    """Return True if two names in one folder, of different identities, are those of one entry."""
    with suppress(OSError):
        facts, others = one.lstat(), other.lstat()
        if facts.st_dev != others.st_dev or facts.st_ino == others.st_ino:
            return False
        is_alike = folded(one.name) == folded(other.name)
        # a short name, such as MODEL~1, is spelled in another way altogether
        if not is_alike and _shown(facts) != _shown(others):
            return False
        try:
            return not {one.name, other.name} <= {path.name for path in one.parent.iterdir()}
        except PermissionError:  # it may be entered, and not listed
            return is_alike
    return False


def _shown(status: os.stat_result) -> tuple[int, ...]:
    """Return what a file system shows of an entry, the same by every spelling."""
    return (
        *(status.st_mode, status.st_uid, status.st_gid, status.st_size),
        *(status.st_mtime_ns, status.st_ctime_ns),
    )

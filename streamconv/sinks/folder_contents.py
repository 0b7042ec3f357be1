"""Everything in a folder: files that a run may remove, and files of somebody else.

A path is foreign if no list or pattern of known paths names it, or if this process cannot remove
it. A foreign folder is not looked into. A file is removed only if it was listed first, and still
has the size and the time that were listed.
"""

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from streamconv.errors import OutputExists, quoted
from streamconv.system.file_ops import Files
from streamconv.system.identity import Identity
from streamconv.system.mounts import mount_points
from streamconv.system.removability import obstacle

MANY_PATHS = 5
"""How many paths a message names; it gives the number of the others."""


class KnownPaths(Protocol):
    """Decides which paths below a folder may be removed."""

    def names_file(self, name: str) -> bool:
        """Return True for the path of a file that may be removed."""

    def names_folder(self, name: str) -> bool:
        """Return True for the path of a folder that may be removed once it is empty."""


@dataclass(frozen=True, slots=True)
class FolderEntry:
    """A file or folder that may be removed."""

    name: str
    """Its path below the folder that was listed, with slashes."""
    is_folder: bool
    size: int
    """Bytes of a file; 0 for a folder."""
    changed_ns: int
    """When a file was last written to; 0 for a folder."""
    identity: Identity


@dataclass(frozen=True, slots=True)
class Foreign:
    """A path that may not be removed."""

    name: str
    """Its path below the folder that was listed."""
    why: str


@dataclass(frozen=True, slots=True)
class FolderContents:
    """Everything in a folder."""

    folder: Path
    entries: tuple[FolderEntry, ...] = ()
    """In the order of their paths; a folder before all that is in it."""
    foreign: tuple[Foreign, ...] = ()

    def files(self) -> list[FolderEntry]:
        """Return the entries that are files."""
        return [entry for entry in self.entries if not entry.is_folder]

    def digest(self) -> bytes:
        """Return a digest of all entries, in hexadecimal; the same while none of them changes."""
        from xxhash import xxh3_128

        digest = xxh3_128()
        for entry in self.entries:
            digest.update(repr((entry.name, *_facts(entry))).encode("ascii", "backslashreplace"))
        return digest.hexdigest().encode("ascii")

    def require_nothing_foreign(self, cannot: str, hint: str) -> None:
        """Raise OutputExists that names the foreign paths, if there are any.

        Args:
            cannot: What cannot be done because of them.
            hint: What the user can do.
        """
        if self.foreign:
            paths = [(f"{self.folder}/{each.name}", each.why) for each in self.foreign]
            raise OutputExists(f"{cannot}: {_counted(len(paths))}: {_named(paths)}", hint)

    def differences(self, now: "FolderContents") -> "FolderContents":
        """Return the present contents of the folder. New and changed paths count as foreign.

        Args:
            now: The folder, listed again.
        """
        listed = {entry.name: _facts(entry) for entry in self.entries}
        added = [
            Foreign(entry.name, "changed meanwhile" if entry.name in listed else "new")
            for entry in now.entries
            if listed.get(entry.name) != _facts(entry)
        ]
        return FolderContents(now.folder, now.entries, (*now.foreign, *added))


def list_contents(
    folder: Path, known: KnownPaths, files: Files, *, any_owner: bool = False
) -> FolderContents:
    """List a folder.

    Args:
        folder: The folder; nothing is in it if it does not exist.
        known: The paths that may be removed.
        files: The file operations.
        any_owner: True if files of other users may be removed, too.

    Raises:
        OSError: A folder cannot be read.
    """
    if not files.is_folder(folder) or files.is_link(folder):
        return FolderContents(folder)
    mounted = mount_points()
    entries: list[FolderEntry] = []
    foreign: list[Foreign] = []
    try:
        status, real = files.stat(folder, follow=False), files.real_path(folder)
    except FileNotFoundError:  # another part has just removed it
        return FolderContents(folder)
    if here := obstacle(folder, status, frozenset(), any_owner=any_owner):
        return FolderContents(folder, (), (Foreign("", here),))
    pending = [""]
    while pending:
        below = pending.pop()
        for name, status in files.scan(folder / below):
            path = f"{below}{name}"
            is_folder = stat.S_ISDIR(status.st_mode)
            is_known = known.names_folder(path) if is_folder else known.names_file(path)
            why = obstacle(real / path, status, mounted, any_owner=any_owner)
            if why or not is_known:
                slash = "/" if is_folder else ""
                foreign.append(Foreign(f"{path}{slash}", why or "unknown"))
                continue
            entries.append(_entry(path, status))
            if is_folder:
                pending.append(f"{path}/")
    return FolderContents(
        folder,
        tuple(sorted(entries, key=lambda entry: entry.name)),
        tuple(sorted(foreign, key=lambda each: each.name)),
    )


def remove_contents(
    contents: FolderContents,
    files: Files,
    is_last: Callable[[str], bool],
) -> bool:
    """Remove what was listed, and the folder if nothing else is in it.

    Args:
        contents: The list; a file that has changed since is kept.
        files: The file operations.
        is_last: Returns True for the files that are removed after all others.

    Returns:
        False if something else is in the folder, which therefore is still there.

    Raises:
        OSError: Something cannot be removed.
    """
    for entry in sorted(contents.files(), key=lambda entry: is_last(entry.name)):
        path = contents.folder / entry.name
        if _is_unchanged(path, entry, files):
            files.unlink(path)
    folders = [contents.folder / entry.name for entry in contents.entries if entry.is_folder]
    emptied = [_remove_if_empty(folder, files) for folder in (*reversed(folders), contents.folder)]
    return all(emptied)


def _remove_if_empty(folder: Path, files: Files) -> bool:
    with suppress(FileNotFoundError):
        if files.names(folder):
            return False
        files.remove_folder(folder)
    return True


def _is_unchanged(path: Path, entry: FolderEntry, files: Files) -> bool:
    """Return True if a file is as it was listed, or gone."""
    try:
        status = files.stat(path, follow=False)
    except FileNotFoundError:
        return True
    return _facts(_entry(entry.name, status)) == _facts(entry)


def _entry(name: str, status: os.stat_result) -> FolderEntry:
    is_folder = stat.S_ISDIR(status.st_mode)
    return FolderEntry(
        name,
        is_folder,
        0 if is_folder else status.st_size,
        0 if is_folder else status.st_mtime_ns,
        (status.st_dev, status.st_ino),
    )


def _facts(entry: FolderEntry) -> tuple[bool, int, int]:
    """Return the facts that show if an entry has changed since it was listed.

    The inode does not count: some network file systems change it later.
    """
    return entry.is_folder, entry.size, entry.changed_ns


def _counted(number: int) -> str:
    return "1 path" if number == 1 else f"{number:,} paths"


def _named(paths: Iterable[tuple[str, str]]) -> str:
    """Return the first paths, each with the reason, and how many more there are."""
    shown = [*paths]
    texts = [f"{quoted(path)} ({why})" for path, why in shown[:MANY_PATHS]]
    more = len(shown) - MANY_PATHS
    return ", ".join(texts) + (f", and {more:,} more" if more > 0 else "")

"""Files of our own in folders that other people can write to.

Somebody else can plant a link, a FIFO or a file of his own under a name that we use. So the paths
that `Guard` knows are opened from the folder that holds them on, one component at a time, without
following a link. Whatever exists at such a path must be ours:

    kind     a regular file with one link, or a real folder
    owner    this user; another one only if the folder that holds it is his or root's, or is this
             user's and not writable by everybody, as several users may make parts of one run
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from errno import EPERM
from pathlib import Path

KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFREG: "a file",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
NO_WAIT = getattr(os, "O_NONBLOCK", 0)
"""Opens a FIFO at once, whether or not another process has it open."""
FOLDER = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_PATH", 0)


class PlantedFile(OSError):
    """A path of ours holds something that we did not make."""

    def __init__(self, path: Path, fact: str) -> None:
        super().__init__(EPERM, fact, str(path))


@dataclass(frozen=True, slots=True)
class Place:
    """A path as the system calls take it: a name in an open folder, or the whole path."""

    path: Path
    name: str | Path
    folder: int | None
    """The descriptor of the folder that holds a guarded path; None for other paths."""

    @property
    def is_guarded(self) -> bool:
        return self.folder is not None

    def open(self, flags: int, mode: int = 0o777) -> int:
        """Open it. If it is guarded, links are not followed, and a file there must be ours."""
        if self.folder is None:
            return os.open(self.path, flags, mode)
        try:
            fd = os.open(self.name, flags | NO_FOLLOW | NO_WAIT, mode, dir_fd=self.folder)
        except OSError:
            self.check_if_there(is_folder=False)
            raise
        try:
            self._check(os.fstat(fd), is_folder=False)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def stat(self, *, follow: bool) -> os.stat_result:
        """Return its status. If it is guarded, links are not followed."""
        follow = follow and not self.is_guarded
        return os.stat(self.name, dir_fd=self.folder, follow_symlinks=follow)

    def check(self, *, is_folder: bool) -> None:
        """Check that what is there is ours.

        Raises:
            PlantedFile: It is not.
            FileNotFoundError: Nothing is there.
        """
        if self.is_guarded:
            self._check(self.stat(follow=False), is_folder=is_folder)

    def check_if_there(self, *, is_folder: bool) -> None:
        """Check that what is there is ours, if anything is."""
        try:
            self.check(is_folder=is_folder)
        except FileNotFoundError:
            return

    def _check(self, found: os.stat_result, *, is_folder: bool) -> None:
        assert self.folder is not None
        check_own(self.path, found, os.fstat(self.folder), is_folder=is_folder)


def check_own(
    path: Path, found: os.stat_result, folder: os.stat_result, *, is_folder: bool | None = None
) -> None:
    """Check that a file or folder is ours; see the table above.

    Args:
        path: Its path, for the error.
        found: Its status, which is that of the link if it is one.
        folder: The status of the folder that holds it.
        is_folder: True if it has to be a folder, False if a file, None if it may be either.

    Raises:
        PlantedFile: It is not ours.
    """
    kind = stat.S_IFMT(found.st_mode)
    allowed = {None: (stat.S_IFDIR, stat.S_IFREG), True: (stat.S_IFDIR,), False: (stat.S_IFREG,)}
    if kind not in allowed[is_folder]:
        raise PlantedFile(path, f"it is {KINDS.get(kind, 'a device')}")
    if kind == stat.S_IFREG and found.st_nlink > 1:
        raise PlantedFile(path, f"it has {found.st_nlink} hard links")
    user = os.geteuid()
    if found.st_uid == user or folder.st_uid in (found.st_uid, 0):
        return
    if folder.st_uid == user and not folder.st_mode & stat.S_IWOTH:
        return
    raise PlantedFile(path, f"it belongs to user {found.st_uid}")


def names_of_own(place: Place) -> list[str]:
    """Return the names in a guarded folder, sorted. Raises PlantedFile."""
    place.check(is_folder=True)
    fd = os.open(place.name, os.O_RDONLY | NO_FOLLOW, dir_fd=place.folder)
    try:
        with os.scandir(fd) as entries:
            return sorted(entry.name for entry in entries)
    finally:
        os.close(fd)


def raise_unless_gone(error: OSError) -> None:
    """Raise an error of a walk, unless another process has just removed the folder."""
    if not isinstance(error, FileNotFoundError):
        raise error


def walk_own(folder: Path, place: Place) -> Iterator[Path]:
    """Yield the files below a guarded folder. Raises PlantedFile."""
    found = os.fwalk(place.name, onerror=raise_unless_gone, dir_fd=place.folder)
    for above, folders, names, fd in found:
        holder = os.fstat(fd)
        path = folder / Path(above).relative_to(place.name)
        for name in (*folders, *names):
            with contextlib.suppress(FileNotFoundError):  # another part has just renamed it
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                check_own(path / name, status, holder)
                if not stat.S_ISDIR(status.st_mode):
                    yield path / name

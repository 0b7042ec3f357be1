"""The journals of a run: one file for each part, and the request of the conversion.

Journals and request are in the partial folder while shards are written. When the result is
complete, they are moved next to the target, as the result must not contain them. The commit then
renames the partial folder to the target, and removes them. A crash leaves one of these states:

    partial folder   in the folder       next to the target   recovery by the next run
    incomplete       journals            -                    --resume keeps the finished shards
    complete         some journals       the others           the same: all of them are read
    complete         -                   journals             the same: every shard is finished
    -                -                   journals             the target is the result: --resume
                                                              and `finish` remove them, and any
                                                              run that replaces the target

A journal in the folder is written by its own part only. A new run writes its journal to a new
file and renames it, because bytes must not be appended to a file whose fsync may have failed.
After the commit the request goes first: as long as a journal is left, it names the conversion.
"""

import stat
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path

from streamconv.checkpoint.types import MANIFEST
from streamconv.errors import IOFailed, OutputExists
from streamconv.planning.plan import Plan
from streamconv.sinks.journal import (
    Finished,
    Journal,
    finished_line,
    opening_line,
    read_journal,
)
from streamconv.sinks.os_errors import map_os_errors
from streamconv.sinks.own_files import own_lines, read_own_file
from streamconv.sinks.run_paths import RunPaths
from streamconv.system.absolute_paths import absolute_path
from streamconv.system.file_ops import Files
from streamconv.system.linux_file_ops import system_files
from streamconv.system.removability import is_kept_by_sticky_bit


class OpenJournal:
    """The journal of this part, open for more lines. `add` is safe to call from any thread."""

    def __init__(self, path: Path, files: Files) -> None:
        self._path = path
        self._files = files
        self._fd = files.open_append(path, create=False)
        self._is_open = True
        self._error: OSError | None = None
        self._lock = threading.Lock()

    def add(self, name: str, finished: Finished) -> None:
        """Record that a shard is finished; the line is durable on return.

        Args:
            name: The file name of the shard.
            finished: Its size and the digests of its pieces.

        Raises:
            OSError: The line was not written. Every later call raises the same error, since
                the bytes of a file are unknown after a failed fsync.
        """
        with self._lock:
            if self._error is not None:
                raise self._error
            assert self._is_open, "the journal is closed"
            try:
                self._files.append(self._fd, finished_line(name, finished))
                self._files.sync(self._fd)
            except OSError as error:
                error.filename = str(self._path)
                self._error = error
                raise

    def close(self) -> None:
        """Close the file; further calls do nothing."""
        with self._lock:
            if self._is_open:
                self._is_open = False
                with suppress(OSError):
                    self._files.close(self._fd)


class Journals:
    """The journals of all parts of a run, and its request."""

    def __init__(self, paths: RunPaths, part: int, files: Files) -> None:
        """Use the journal number `part` for this part of the run."""
        self._paths = paths
        self._path = paths.journal(part)
        self._files = files

    def read(self) -> list[Journal]:
        """Read every journal, in the partial folder and next to the target."""
        return self._read_all([*self.in_folder(), *self.moved()])

    def read_moved(self) -> list[Journal]:
        """Read every journal next to the target."""
        return self._read_all(self.moved())

    def _read_all(self, paths: Iterable[Path]) -> list[Journal]:
        journals = [self._read(path) for path in paths]
        return [journal for journal in journals if journal is not None]

    def _read(self, path: Path) -> Journal | None:
        """Read a journal; None if its first line is damaged, or another part has just moved it."""
        try:
            with closing(own_lines(path, self._files)) as lines:
                return read_journal(lines)
        except FileNotFoundError:
            return None

    def in_folder(self) -> list[Path]:
        """List journals and request in the partial folder."""
        return self._listed(self._paths.partial, self._paths.is_journal)

    def moved(self) -> list[Path]:
        """List journals and request next to the target."""
        return self._listed(self._paths.parent, self._paths.is_moved)

    def _listed(self, folder: Path, is_own: Callable[[str], bool]) -> list[Path]:
        """List the files of a folder, which may be gone, with such names."""
        try:
            names = self._files.names(folder)
        except FileNotFoundError:
            return []
        return [folder / name for name in names if is_own(name)]

    def start(self, plan: Plan, finished: Mapping[int, Finished]) -> OpenJournal:
        """Write a new journal for this part, and open it for more lines.

        Args:
            plan: The conversion, which the first line describes.
            finished: The shards of earlier runs, by number; the new journal contains them.
        """
        lines = [opening_line(plan)]
        lines += [finished_line(plan.shards[n].name, done) for n, done in finished.items()]
        self._write_and_rename(self._path.with_suffix(".new"), self._path, b"".join(lines))
        self.remove_moved()
        return OpenJournal(self._path, self._files)

    def save_request(self, request: bytes) -> None:
        """Save the request of the conversion with the journals, until the commit."""
        self._write_and_rename(self._path.with_suffix(".command"), self._paths.request, request)

    def save_listing(self, digest: bytes) -> None:
        """Save the digest of the former target with the journals, until the commit."""
        self._write_and_rename(self._path.with_suffix(".target"), self._paths.listing, digest)

    def read_listing(self) -> bytes | None:
        """Return the digest of the former target; None if no run has saved it."""
        for path in (self._paths.listing, self._paths.moved(self._paths.listing)):
            with suppress(FileNotFoundError):
                return read_own_file(path, self._files)
        return None

    def _write_and_rename(self, draft: Path, path: Path, content: bytes) -> None:
        """Write a file whole: readers of `path` see the former content or the new one."""
        self._files.unlink(draft)
        self._files.write_file(draft, content)
        self._files.rename(draft, path)
        self._files.sync_folder(self._paths.partial)

    def move(self) -> None:
        """Move all files next to the target; this part's journal must be closed."""
        above = self._files.stat(self._paths.parent)
        for path in self.in_folder():
            status = self._files.stat(path)
            if not stat.S_ISREG(status.st_mode):
                continue  # no run writes such a thing: it stays where it is
            if is_kept_by_sticky_bit(status, above):
                self._copy(path, self._paths.moved(path))
            else:
                self._files.rename(path, self._paths.moved(path))
        self._files.sync_folder(self._paths.parent)
        self._files.sync_folder(self._paths.partial)

    def _copy(self, path: Path, moved: Path) -> None:
        """Move a file of another user as a copy, which this user can remove after the commit."""
        self._files.unlink(moved)
        self._files.write_file(moved, read_own_file(path, self._files))
        self._files.sync_folder(moved.parent)
        self._files.unlink(path)

    def move_back(self) -> None:
        """Move all files back to the partial folder, if the commit has failed or was cut short.

        If the folder has a newer file of the same name, the moved one is removed: the newer one
        contains all of its lines.
        """
        moved = self.moved()
        for path in moved:
            with suppress(FileNotFoundError):  # another part moves it at the same moment
                if self._files.exists(self._paths.moved_back(path)):
                    self._files.unlink(path)
                else:
                    self._files.rename(path, self._paths.moved_back(path))
        if moved:
            self._files.sync_folder(self._paths.partial)
            self._files.sync_folder(self._paths.parent)

    def remove_moved(self) -> None:
        """Remove the files next to the target, after the commit or if they are outdated."""
        request = self._paths.moved(self._paths.request)
        for path in sorted(self.moved(), key=lambda path: path != request):
            self._files.unlink(path)


def load_request(target: Path) -> tuple[bytes, str]:
    """Read the request that an unfinished conversion to `target` has saved.

    Returns:
        The content of the file, and its path for messages.

    Raises:
        OutputExists: The conversion is finished, or a run without --part has not ended.
        IOFailed: There is no unfinished conversion.
    """
    paths = RunPaths(absolute_path(target))
    files = system_files()
    files.guard(paths.parent, paths.own_prefix)
    with map_os_errors(paths.request):
        for path in (paths.request, paths.moved(paths.request)):
            with suppress(FileNotFoundError):  # or another process moves it at the same moment
                return read_own_file(path, files), str(path)
        if Journals(paths, 1, files).in_folder():  # of a run without --part
            raise OutputExists(
                f"cannot finish {paths.target}: the run that has left {paths.partial} has to write "
                "its shards first",
                "run the same command with --resume to continue it",
            )
        if files.exists(paths.target / MANIFEST):
            raise OutputExists(
                f"cannot finish {paths.target}: it is finished already",
                f"check it with `streamconv verify {target}`",
            )
        if files.exists(paths.target):
            raise OutputExists(
                f"cannot finish {paths.target}: it exists already, and there is no unfinished "
                f"conversion in {paths.partial}",
                f"if it is finished already, check it with `streamconv verify {target}`",
            )
    raise IOFailed(
        f"cannot finish {paths.target}: there is no unfinished conversion in {paths.partial}",
        "name the target that the runs with --part were given",
    )

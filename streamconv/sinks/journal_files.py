"""The journals in a folder that is being built: one for each part of the run, see `journal`.

When all else is in the folder, they are moved to beside its place, so that at no moment a crash
leaves it without them; they are removed when the folder has been moved to its place.
"""

import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from streamconv.checkpoint.types import JOURNAL_PREFIX
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
from streamconv.sinks.preflight import PARTIAL_SUFFIX
from streamconv.system.file_ops import Files
from streamconv.system.linux_file_ops import system_files

COMMAND = f"{JOURNAL_PREFIX}command.json"
"""What the parts of a run were asked for, as long as they are not closed."""


class Journals:
    """The journals of the run that builds `target` in `folder`, one of which is its part's."""

    def __init__(self, target: Path, folder: Path, part: int, files: Files) -> None:
        self._target = target
        self._folder = folder
        self._path = folder / f"{JOURNAL_PREFIX}{part}.jsonl"
        self._files = files
        self._fd: int | None = None
        self._failed: OSError | None = None
        self._lock = threading.Lock()

    def read(self) -> list[Journal]:
        """What all of them say."""
        paths = [*self.paths(), *self.moved()]
        found = [self._read(path) for path in paths]
        return [journal for journal in found if journal is not None]

    def _read(self, path: Path) -> Journal | None:
        """One journal; None where another part has just given it its name, or nothing is in it."""
        try:
            return read_journal(self._files.read_file(path))
        except FileNotFoundError:
            return None

    def save_request(self, command: bytes) -> None:
        """Keep a command beside the journals: it goes when they go."""
        fresh = self._path.with_suffix(".command")
        self._files.unlink(fresh)
        self._files.write_file(fresh, command)
        self._files.rename(fresh, self._folder / COMMAND)
        self._files.sync_folder(self._folder)

    def paths(self) -> list[Path]:
        """Those in the folder."""
        names = self._files.names(self._folder)
        return [self._folder / name for name in names if name.startswith(JOURNAL_PREFIX)]

    def moved(self) -> list[Path]:
        """Those beside the place."""
        names = self._files.names(self._target.parent)
        prefix = f"{self._target.name}.{JOURNAL_PREFIX}"
        return [self._target.with_name(name) for name in names if name.startswith(prefix)]

    def begin(self, plan: Plan, finished: Mapping[int, Finished]) -> None:
        """Write this run's journal anew, with what is finished before it begins.

        In a new file: to one whose fsync may have failed, nothing is added.
        """
        lines = [opening_line(plan)]
        lines += [finished_line(plan.shards[n].name, done) for n, done in finished.items()]
        fresh = self._path.with_suffix(".new")
        self._files.unlink(fresh)
        self._files.write_file(fresh, b"".join(lines))
        self._files.rename(fresh, self._path)
        self._files.sync_folder(self._folder)
        self.remove()
        self._fd = self._files.open_append(self._path, create=False)

    def add(self, name: str, finished: Finished) -> None:
        """Say that a shard is finished; durable on return. Raises OSError, and then for good."""
        with self._lock:
            if self._failed is not None:
                raise self._failed
            assert self._fd is not None, "begin comes first"
            try:
                self._files.append(self._fd, finished_line(name, finished))
                self._files.sync(self._fd)
            except OSError as error:
                error.filename = str(self._path)
                self._failed = error
                raise

    def close(self) -> None:
        with self._lock:
            fd, self._fd = self._fd, None
            if fd is not None:
                with suppress(OSError):
                    self._files.close(fd)

    def move(self) -> None:
        """Move all of them to beside the place; nothing is added any more."""
        self.close()
        for path in self.paths():
            self._files.rename(path, self._target.with_name(f"{self._target.name}.{path.name}"))
        self._files.sync_folder(self._target.parent)
        self._files.sync_folder(self._folder)

    def move_back(self) -> None:
        """Into the folder again, where it was not moved after all."""
        for path in self.moved():
            name = path.name.removeprefix(f"{self._target.name}.")
            self._files.rename(path, self._folder / name)

    def remove(self) -> None:
        """Remove those beside the place: they are not needed any more, or out of date."""
        for path in self.moved():
            self._files.unlink(path)


def load_request(target: Path) -> tuple[bytes, str]:
    """What the parts of a run at work on `target` were asked for, and the file that says so.

    Raises OutputExists where the place is closed already, IOFailed where there are no parts.
    """
    target = Path(os.path.abspath(target))
    path = target.with_name(target.name + PARTIAL_SUFFIX) / COMMAND
    files = system_files()
    with map_os_errors(path):
        if files.exists(path):
            return files.read_file(path), str(path)
        if files.exists(target):
            raise OutputExists(f"{target} is there already, and no part of a run beside it")
    raise IOFailed(
        f"{path.parent}: there is no part of a run",
        "finish closes what was made with --part; the target is the one that was named there",
    )

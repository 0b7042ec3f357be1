"""Twins of the file operations in which one goes wrong: it fails, or the process dies there.

An operation is one call of the system, more or less; they are counted as they are made. What a
system really does is kept: a descriptor is gone also where closing it fails.
"""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamconv.system.file_ops import Files
from streamconv.system.linux_file_ops import LinuxFiles

READING = (
    "open_folder",
    "check_own",
    "open_read",
    "_read_some",
    "read_file",
    "stat",
    "real_path",
    "names",
    "scan",
    "walk",
    "lock",
)
MAKING = ("_open_new", "_allocate", "open_append", "make_folder", "rename")
WRITING = (
    *("_write_some", "_sync_range", "_append_some"),
    *("truncate", "sync", "sync_folder", "close"),
)
REMOVING = ("unlink", "remove_folder")
PERMITTING = ("set_mode", "set_owner")
FILLING = tuple(name for name in (*MAKING, *WRITING) if name != "close")
"""What needs room on the disk."""
CHANGING = (*FILLING, *REMOVING, *PERMITTING)
"""What a file system that is mounted read-only refuses."""
LASTING = (
    "lock",
    *MAKING,
    "_write_some",
    "_append_some",
    "truncate",
    "close",
    *REMOVING,
    *PERMITTING,
)
"""What changes what a killed process leaves. Between two of them, it leaves the same at any moment:
the system keeps what was written, durable or not."""
MOVING = ("_read_some", "_write_some", "_append_some")
"""What may do less than it is asked to."""
OPERATIONS = (*READING, *MAKING, *WRITING, *REMOVING, *PERMITTING)


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong."""

    strike: Callable[[], bool]
    """Fails, or dies; true where the operation is to do less than it is asked to instead."""
    only: tuple[str, ...] = OPERATIONS
    """The operations that can go so wrong."""
    lasting: bool = False
    """Whether all of them go wrong from then on."""


Site = tuple[str, ...]
"""The lines of the package that lead to an operation, and its name."""


class Twin(LinuxFiles):
    """The `at`-th of the operations that a fault is for goes wrong, counting from 1."""

    def __init__(self, at: int = 0, fault: Fault | None = None) -> None:
        super().__init__()
        self.at = at
        self.fault = fault
        self.done: list[str] = []
        self.sites: list[Site] = []
        """From where each of them came, if nothing is to go wrong."""
        self.struck = 0
        """How many operations went wrong."""
        self._counted = 0
        self._counting = threading.Lock()

    def strikes(self, name: str) -> bool:
        """Goes wrong where that is due; true where less is to be done."""
        with self._counting:
            self.done.append(name)
            if self.fault is None:
                self.sites.append(_site(name))
            if self.fault is None or name not in self.fault.only:
                return False
            self._counted += 1
            due = self.at == self._counted or (self.fault.lasting and 0 < self.at < self._counted)
            if not due:
                return False
            self.struck += 1
        return self.fault.strike()


def _site(name: str) -> Site:
    """Return the lines of the package that are being run, and the name."""
    lines = []
    frame = sys._getframe(3)
    while frame.f_back is not None:
        if frame.f_globals["__name__"].startswith("streamconv."):
            lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        frame = frame.f_back
    return (*lines, name)


def _operation(name: str) -> Callable[..., Any]:
    true = getattr(LinuxFiles, name)

    def call(self: Twin, *args: Any, **options: Any) -> Any:
        try:
            less = self.strikes(name)
        except OSError:
            if name == "close":
                true(self, *args, **options)
            raise
        return true(self, *(_less(*args) if less else args), **options)

    return call


for _name in OPERATIONS:
    setattr(Twin, _name, _operation(_name))


def _less(fd: int, data: memoryview, *offset: int) -> tuple[Any, ...]:
    """The arguments of a call that does half of it."""
    return (fd, data[: len(data) // 2 or len(data)], *offset)


def _fails(number: int) -> Callable[[], bool]:
    """Operations fail with this errno."""

    def strike() -> bool:
        raise OSError(number, os.strerror(number))

    return strike


def _does_less() -> bool:
    """Reads and writes do half of what they are asked to."""
    return True


def _dies() -> bool:
    """The process is killed before the operation."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still here")


DEATH = Fault(_dies)
KILLED = Fault(_dies, LASTING)
"""Death at each moment that leaves something else."""
FAULTS = {
    "EIO": Fault(_fails(errno.EIO)),
    "ENOSPC": Fault(_fails(errno.ENOSPC), FILLING),
    "EDQUOT": Fault(_fails(errno.EDQUOT), (*MAKING, "_write_some")),
    "EROFS": Fault(_fails(errno.EROFS), (*MAKING, *REMOVING)),
    "a disk that is gone": Fault(_fails(errno.EIO), lasting=True),
    "a full disk": Fault(_fails(errno.ENOSPC), FILLING, lasting=True),
    "a target that can only be read": Fault(_fails(errno.EROFS), CHANGING, lasting=True),
    "half": Fault(_does_less, MOVING),
    "always half": Fault(_does_less, MOVING, lasting=True),
}
"""What goes wrong, by name."""


class Lockless(LinuxFiles):
    """A file system without locks, such as Lustre by default."""

    def lock(self, fd: int) -> None:
        Files.lock(self, fd)


class Heartbeat(LinuxFiles):
    """Knows what a loss of power would lose: bytes and names that no fsync has made durable."""

    def __init__(self) -> None:
        super().__init__()
        self.files: set[int] = set()
        """Inodes with bytes that are not durable."""
        self.folders: set[Path] = set()
        """Folders with names that are not durable."""
        self.seen: list[tuple[str, set[int], set[Path]]] = []
        """What was not durable at each line of a journal, each rename, each fsync of a folder."""

    def _note(self, what: str) -> None:
        self.seen.append((what, set(self.files), set(self.folders)))

    def _open_new(self, path: Path) -> int:
        self.folders.add(path.parent)
        return super()._open_new(path)

    def make_folder(self, path: Path) -> None:
        self.folders.add(path.parent)
        super().make_folder(path)

    def _write_some(self, fd: int, data: memoryview, offset: int) -> int:
        self.files.add(os.fstat(fd).st_ino)
        return super()._write_some(fd, data, offset)

    def _append_some(self, fd: int, data: memoryview) -> int:
        if b'"shard"' in bytes(data):
            self._note("journal")
        self.files.add(os.fstat(fd).st_ino)
        return super()._append_some(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        self.files.add(os.fstat(fd).st_ino)
        super().truncate(fd, size)

    def sync(self, fd: int) -> None:
        super().sync(fd)
        self.files.discard(os.fstat(fd).st_ino)

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        self.folders.discard(path)
        self._note(f"sync {path.name}")

    def unlink(self, path: Path) -> None:
        if path.exists():
            self.files.discard(path.stat().st_ino)
            self.folders.add(path.parent)
        super().unlink(path)

    def rename(self, source: Path, target: Path) -> None:
        self._note(f"rename {source.name}")
        self.folders |= {source.parent, target.parent}
        super().rename(source, target)


def with_files(files: Files, call: Callable[[], Any]) -> Any:
    """Runs `call` with these file operations on both sides of a conversion."""
    import streamconv.sinks.checkpoint_folder
    import streamconv.sinks.journal_files
    import streamconv.sources.dcp_folder
    import streamconv.sources.safetensors_folder

    modules: tuple[Any, ...] = (
        streamconv.sinks.checkpoint_folder,
        streamconv.sinks.journal_files,
        streamconv.sources.dcp_folder,
        streamconv.sources.safetensors_folder,
    )
    kept = [module.system_files for module in modules]
    for module in modules:
        module.system_files = lambda: files
    try:
        return call()
    finally:
        for module, system_files in zip(modules, kept, strict=True):
            module.system_files = system_files


def in_a_child(files: Files, call: Callable[[], Any]) -> int:
    """Runs `call` in a forked process; returns its exit code, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with_files(files, call)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

"""The facts of a file by which it is known again, and which change if it is written to."""

from dataclasses import dataclass
from pathlib import Path

from streamconv.system.file_reads import FileReads


@dataclass(frozen=True, slots=True)
class FileStat:
    """The facts of a file that change if it is written to or replaced."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    """When it was written to."""
    ctime_ns: int
    """When it was written to, renamed, linked or given other permissions."""

    @classmethod
    def of(cls, files: FileReads, file: int | Path) -> "FileStat":
        """Return the facts of an open file, or of the file at a path."""
        stat = files.stat(file)
        times = (stat.st_mtime_ns, stat.st_ctime_ns)
        return cls(stat.st_dev, stat.st_ino, stat.st_size, *times)

    def is_same(self, now: "FileStat") -> bool:
        """Return True if these are facts of one file that has not been written to.

        FAT, and many file systems in user space, give a file another inode once they have
        forgotten the first one. No other file can be given the same time of change.
        """
        return (
            (self.device, self.size, self.mtime_ns) == (now.device, now.size, now.mtime_ns)
        ) and (self.inode == now.inode or self.ctime_ns == now.ctime_ns)

"""A checkpoint folder of safetensors shards, built beside its place and moved there at the end.

Everything is written into `DST.streamconv-partial`, each file made durable; the commit is one
rename of that folder. So nothing that looks like a checkpoint stands at DST until it is one.
"""

import errno
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from streamconv.errors import IOFailed, NoSpace, OutputExists, quoted
from streamconv.files import Files, system_files
from streamconv.host import free_disk
from streamconv.manifest import closing_files
from streamconv.plan import Plan
from streamconv.shards import Shard
from streamconv.sinks.shard import OpenShard
from streamconv.sources import Source
from streamconv.units import show_size

PARTIAL_SUFFIX = ".streamconv-partial"
REPLACED_SUFFIX = ".streamconv-replaced"
COPY_BYTES = 2**20
SPARE_SHARE = 0.01
"""How much more than the planned bytes has to be free: index, manifest, the file system's own."""


class CheckpointFolder:
    """The folder at `place`.

    `modes` are the permissions of its folders and files, where the umask's are not wanted.
    """

    def __init__(
        self,
        place: str | Path,
        *,
        overwrite: bool = False,
        modes: tuple[int, int] | None = None,
        files: Files | None = None,
    ) -> None:
        self.place = Path(os.path.abspath(place))
        self.partial = self.place.with_name(self.place.name + PARTIAL_SUFFIX)
        self._replaced = self.place.with_name(self.place.name + REPLACED_SUFFIX)
        self._overwrite = overwrite
        self._modes = modes
        self._files = files or system_files()
        self._lock = threading.Lock()
        self._plan: Plan | None = None
        self._open: dict[int, OpenShard] = {}
        self._failed: dict[int, OSError] = {}

    def check(self, plan: Plan, source: str) -> None:
        """Refuse a place that cannot be used, before anything is written.

        Raises OutputExists, NoSpace or IOFailed.
        """
        with _explained(self.partial):
            self._check_place(source)
        need = int(plan.write_bytes * (1 + SPARE_SHARE))
        free = free_disk(self.place.parent)
        if free is not None and free < need:
            raise NoSpace(f"{self.place.parent}: {show_size(need)} needed, {show_size(free)} free")

    def _check_place(self, source: str) -> None:
        real, origin = Path(os.path.realpath(self.place)), Path(os.path.realpath(source))
        if real == origin or real.is_relative_to(origin) or origin.is_relative_to(real):
            raise OutputExists(f"{self.place} and the source {origin} lie in one another")
        above = next(folder for folder in self.place.parents if folder.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise IOFailed(f"{self.place} cannot be made: {above} is no folder to write to")
        if self.place.is_symlink():
            raise OutputExists(f"{self.place} is a link", f"name the folder itself: {real}")
        if self.place.exists() and not self.place.is_dir():
            raise OutputExists(f"{self.place} is a file", "name a folder that is not there yet")
        if self.place.is_dir() and any(self.place.iterdir()) and not self._overwrite:
            raise OutputExists(
                f"{self.place} is not empty", "name another folder, or replace it with --overwrite"
            )
        if self.place.is_mount():
            raise OutputExists(
                f"{self.place} is a mount point, and the result is moved to its place whole",
                "name a folder inside of it",
            )
        if self.partial.exists() and not self._overwrite:
            raise OutputExists(
                f"{self.partial} is there: another run is at work on it, or one has died",
                "if none is running, remove it, or start over with --overwrite",
            )
        if os.path.lexists(self._replaced):
            raise OutputExists(
                f"{self._replaced} is there: what an earlier run was replacing",
                "look at it, then remove it or move it away",
            )

    def prepare(self, plan: Plan) -> None:
        self.check(plan, plan.checkpoint.location)
        self._plan = plan
        with _explained(self.partial):
            if self.partial.exists():
                shutil.rmtree(self.partial)
            self.partial.parent.mkdir(parents=True, exist_ok=True)
            self.partial.mkdir()

    def write(self, shard: int, offset: int, data: memoryview) -> bool:
        assert self._plan is not None, "prepare comes first"
        planned = self._plan.shards[shard]
        with _explained(self.partial / planned.name):
            with self._lock:
                if shard not in self._open:
                    self._open[shard] = self._create(shard, planned)
            done = self._open[shard].write(offset, data)
            if done:
                with self._lock:
                    full = self._open.pop(shard)
                full.finish()
            return done

    def _create(self, number: int, planned: Shard) -> OpenShard:
        """A new shard; where that has failed once, it fails alike for every worker."""
        if number in self._failed:
            raise self._failed[number]
        try:
            path = self.partial / planned.name
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = self._files.create(path, planned.nbytes)
        except OSError as error:
            self._failed[number] = error
            raise
        return OpenShard(self._files, fd, planned.nbytes)

    def commit(self, source: Source, digests: Sequence[Sequence[str]]) -> None:
        assert self._plan is not None, "prepare comes first"
        files = self._copy_others(source, self._plan)
        for name, content in closing_files(self._plan, digests, files):
            with _explained(self.partial / name):
                self._files.write_file(self.partial / name, content)
        with _explained(self.place):
            self._set_modes()
            for folder, _, _ in os.walk(self.partial):
                self._files.sync_folder(Path(folder))
            self._take_place()
            self._files.sync_folder(self.place.parent)
            if self._replaced.exists():
                shutil.rmtree(self._replaced)

    def _set_modes(self) -> None:
        """Give folders and files the permissions that were asked for, instead of the umask's."""
        if self._modes is None:
            return
        of_folders, of_files = self._modes
        for folder, _, names in os.walk(self.partial):
            Path(folder).chmod(of_folders)
            for name in names:
                Path(folder, name).chmod(of_files)

    def _take_place(self) -> None:
        """Move the result to its place; what was there is put back where that fails."""
        if not (self._overwrite and self.place.exists()):
            self._files.rename(self.partial, self.place)
            return
        self._files.rename(self.place, self._replaced)
        try:
            self._files.rename(self.partial, self.place)
        except BaseException:
            self._files.rename(self._replaced, self.place)
            raise

    def abort(self) -> None:
        with self._lock:
            for shard in self._open.values():
                shard.close()
            self._open.clear()
        if self._plan is not None:
            shutil.rmtree(self.partial, ignore_errors=True)

    def _copy_others(self, source: Source, plan: Plan) -> dict[str, tuple[int, str]]:
        from xxhash import xxh3_128

        copied = {}
        buffer = memoryview(bytearray(COPY_BYTES))
        for other in plan.copied:
            path = self.partial / other.name
            digest = xxh3_128()
            size = 0
            with _explained(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb", buffering=0) as file:
                    while count := source.read_other(other, buffer, size):
                        digest.update(buffer[:count])
                        left = buffer[:count]
                        while left:
                            left = left[file.write(left) :]
                        size += count
                    os.fsync(file.fileno())
            copied[other.name] = (size, digest.hexdigest())
        return copied


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns the operating system's errors about `path` into ones with words and exit codes."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = NoSpace if full else IOFailed
        raise what(f"{quoted(str(path))}: {error.strerror or error}") from error

"""The comparison of a checkpoint with its own manifest: the digest of every piece and every file.

Each thread reads one file at a time, from its beginning to its end, into two blocks of 4 MiB: one
is filled while the other one is hashed.
"""

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from xxhash import xxh3_128

from streamconv.checkpoint.file_records import RecordedFile, printable
from streamconv.checkpoint.manifest import recorded_files
from streamconv.checkpoint.types import MANIFEST, OtherFile, TensorInfo
from streamconv.errors import BadCheckpoint, quoted
from streamconv.sources.base import Source
from streamconv.system.cancellation import CancelToken
from streamconv.system.readahead import ReadAhead
from streamconv.system.worker_threads import map_unordered
from streamconv.verification.metadata_files import (
    files_beside,
    has_files,
    manifest_file,
    read_manifest,
)
from streamconv.verification.result import (
    Difference,
    FileHashed,
    FileVerified,
    VerifyEvent,
    VerifyProgress,
    VerifyStarted,
)

BLOCK_BYTES = 4 * 2**20
MANY_TENSORS = 3
"""How many tensors of a damaged piece are named."""


# --- what is to be read ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Task:
    """A file to read to its end."""

    file: OtherFile
    recorded: RecordedFile | None
    """What it must be; None to hash it only."""
    sha256: bool
    """True if its SHA-256 is wanted, or recorded."""


def check_files(
    source: Source, *, jobs: int, sha256: bool, cancel: CancelToken
) -> Iterator[VerifyEvent]:
    """Compare the files of a checkpoint with its manifest.

    Without a manifest, nothing is compared; with `sha256`, files are hashed nevertheless.

    Args:
        source: The checkpoint to verify.
        jobs: Number of threads.
        sha256: True to report the SHA-256 of every file.
        cancel: Ends the comparison with Interrupted if it is set.

    Yields:
        Differences, VerifyStarted, progress, files and checksums.

    Raises:
        IOFailed: Reading failed.
        BadCheckpoint: A file changed meanwhile.
    """
    try:
        recorded = _recorded_files(source)
    except BadCheckpoint as error:
        yield Difference(MANIFEST, error.message)
        return
    files = _files(source)
    if recorded is not None:
        yield from _listing_differences(files, recorded, manifest_file(source))
    tasks = list(_tasks(files, recorded, sha256))
    tensors = _TensorsByPlace(source.checkpoint.tensors.values())
    shards = {file.name for file in source.checkpoint.files}
    names = (task.file.name for task in tasks)
    yield VerifyStarted(
        sum(task.file.size for task in tasks), tuple(name for name in names if name in shards)
    )
    with ThreadPoolExecutor(jobs, "reader") as readers:
        yield from map_unordered(
            iter(tasks),
            jobs,
            lambda: readers,
            lambda readers, task: _read_file(source, tensors, task, readers),
            cancel,
        )


def undigested(output: Source) -> list[str]:
    """Return as text which files have no digest to be compared with."""
    return [
        f"the bytes of {name}: no digest of them was recorded"
        for name in output.checkpoint.undigested
    ]


def _recorded_files(source: Source) -> Mapping[str, RecordedFile] | None:
    """Read the files that the manifest lists, by name; None if there is no manifest.

    The shards of a DCP lie next to its metadata, and go by their names without folders. Raises
    BadCheckpoint if streamconv did not write the manifest.
    """
    fields = read_manifest(source)
    if fields is None:
        return None
    shards, others = recorded_files(fields)
    if not has_files(source):
        shards = {PurePosixPath(name).name: shard for name, shard in shards.items()}
    return {**shards, **others}


def _files(source: Source) -> list[OtherFile]:
    """Return every file of the checkpoint, shards first; of a DCP, all but its metadata."""
    shards = [OtherFile(file.name, file.size) for file in source.checkpoint.files]
    return shards + files_beside(source)


def _listing_differences(
    files: list[OtherFile], recorded: Mapping[str, RecordedFile], manifest: str
) -> Iterator[Difference]:
    """Yield the files that are missing, not in the manifest of that name, or of another size."""
    for name in recorded.keys() - {printable(file.name) for file in files}:
        yield Difference(name, f"is missing: {manifest} lists it")
    for file in files:
        expected = recorded.get(printable(file.name))
        if expected is None and file.name != manifest:
            yield Difference(file.name, f"is not in {manifest}")
        elif expected is not None and expected.size != file.size:
            yield Difference(file.name, f"has {file.size} bytes, {manifest} says {expected.size}")


def _tasks(
    files: list[OtherFile], recorded: Mapping[str, RecordedFile] | None, sha256: bool
) -> Iterator[_Task]:
    """Yield the files whose bytes can be compared, or are to be hashed."""
    for file in files:
        expected = recorded.get(printable(file.name)) if recorded is not None else None
        if expected is None:
            if sha256 and (recorded is None or file.name == MANIFEST):
                yield _Task(file, None, True)
        elif expected.size == file.size:
            yield _Task(file, expected, sha256 or bool(expected.sha256))


# --- reading -----------------------------------------------------------------------------------


def _read_file(
    source: Source, tensors: "_TensorsByPlace", task: _Task, reader: Executor
) -> Iterator[VerifyEvent]:
    """Read a file to its end; yield differences, progress, and its SHA-256 if it is wanted."""
    file, recorded = task.file, task.recorded
    block = min(file.size + 1, BLOCK_BYTES)
    whole = hashlib.sha256() if task.sha256 else None
    position = 0
    ahead = ReadAhead(lambda data, offset: source.read_other(file, data, offset), block, reader)
    with closing(ahead):
        for nbytes, expected in recorded.runs() if recorded else ((file.size, None),):
            digest = xxh3_128()
            for data in _blocks(ahead, file, nbytes):
                digest.update(data)
                if whole is not None:
                    whole.update(data)
            if expected is not None and digest.hexdigest() != expected:
                yield _damaged_piece(tensors, file.name, position, position + nbytes)
            yield VerifyProgress(nbytes, file.name, file.name)
            position += nbytes
    if whole is not None:
        found, noted = whole.hexdigest(), recorded.sha256 if recorded else None
        if noted and found != noted:
            yield Difference(file.name, f"has SHA-256 {found}, {MANIFEST} says {noted}")
        yield FileHashed(file.name, found)
    yield FileVerified(file.name, position, file.size)


def _blocks(ahead: ReadAhead, file: OtherFile, nbytes: int) -> Iterator[memoryview]:
    """Yield the next `nbytes` of a file. Raises BadCheckpoint if it ends early."""
    while nbytes:
        data = ahead.read(nbytes)
        if not data:
            raise BadCheckpoint(f"{quoted(file.name)} has become shorter: it had {file.size} bytes")
        yield data
        nbytes -= len(data)


def _damaged_piece(tensors: "_TensorsByPlace", file: str, begin: int, end: int) -> Difference:
    """Return the difference for bytes `begin` to `end` of a file; it names the first tensors."""
    detail = f"bytes {begin} to {end} are not those that were written"
    inside = tensors.between(file, begin, end)
    if inside:
        first = [info.name for info in inside[:MANY_TENSORS]]
        more = f" and {len(inside) - MANY_TENSORS} more" if len(inside) > MANY_TENSORS else ""
        detail = f"{detail}: {', '.join(first)}{more}"
    return Difference(file, detail)


class _TensorsByPlace:
    """The tensors of each file in the order of their bytes.

    A manifest may have tens of thousands of pieces that are wrong; each is looked up.
    """

    def __init__(self, tensors: Iterable[TensorInfo]) -> None:
        self._tensors = tensors

    @cached_property
    def _files(self) -> Mapping[str, list[TensorInfo]]:
        found: dict[str, list[TensorInfo]] = {}
        for info in self._tensors:
            if info.nbytes:
                found.setdefault(info.file, []).append(info)
        for infos in found.values():
            infos.sort(key=lambda info: info.offset)
        return found

    def between(self, file: str, begin: int, end: int) -> list[TensorInfo]:
        """Return the tensors that have any of the bytes `begin` to `end` of a file, in order."""
        infos = self._files.get(file, [])
        first = bisect_right(infos, begin, key=lambda info: info.offset + info.nbytes)
        return infos[first : bisect_left(infos, end, key=lambda info: info.offset)]

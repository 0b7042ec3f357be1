"""A checkpoint held against its own manifest: the digest of every piece and every file.

Files are read from their beginning to their end, one for each thread, in blocks of 4 MiB, of which
each thread has two: one is read into while the other one is hashed.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from xxhash import xxh3_128

from streamconv.checkpoint.types import DIGEST, MANIFEST, OtherFile
from streamconv.errors import BadCheckpoint, quoted
from streamconv.sources.base import Source
from streamconv.system.cancellation import CancelToken
from streamconv.system.readahead import ReadAhead
from streamconv.system.worker_threads import map_unordered
from streamconv.verification.metadata_files import has_files, read_manifest
from streamconv.verification.result import (
    Difference,
    FileHashed,
    VerifyEvent,
    VerifyProgress,
    VerifyStarted,
)

BLOCK_BYTES = 4 * 2**20
SHOWN = 3
"""So many tensors of a piece are named."""
_PIECE = re.compile(r"([0-9]{1,18}) ([0-9a-f]{32})")


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the manifest says of one file."""

    size: int
    pieces: tuple[tuple[int, str], ...]
    """Bytes and digest of each run of the file."""
    sha256: str | None


def recorded_files(source: Source) -> Mapping[str, Recorded] | None:
    """What the manifest says of each file by name; None where there is no manifest.

    Raises BadCheckpoint where it is not one that streamconv wrote.
    """
    fields = read_manifest(source)
    if fields is None:
        return None
    try:
        if fields["digest"] != DIGEST:
            raise ValueError
        named = (lambda name: name) if has_files(source) else lambda name: PurePosixPath(name).name
        shards = {named(name): _shard(entry) for name, entry in fields["shards"].items()}
        files = {
            name: Recorded(_size(f["size"]), ((f["size"], _hex(f["digest"])),), f.get("sha256"))
            for name, f in fields["files"].items()
        }
    except (KeyError, TypeError, AttributeError, ValueError):
        raise BadCheckpoint(f"{MANIFEST}: not a manifest that this release reads") from None
    return {**shards, **files}


def _shard(entry: Any) -> Recorded:
    matches = [_PIECE.fullmatch(row) for row in entry["pieces"]]
    pieces = tuple((int(m[1]), m[2]) for m in matches if m)
    size = _size(entry["size"])
    if not all(matches) or sum(nbytes for nbytes, _ in pieces) != size:
        raise ValueError
    return Recorded(size, pieces, entry.get("sha256"))


def _size(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError
    return value


def _hex(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def printable(name: str) -> str:
    """A file name as the manifest has it: bytes that are not UTF-8 as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def check(source: Source, *, jobs: int, sha256: bool, cancel: CancelToken) -> Iterator[VerifyEvent]:
    """What is not as it was written; with `sha256` the SHA-256 of every file as well.

    Where there is no manifest, only the structure is looked at, and what was asked for is hashed.
    Raises IOFailed where reading fails, BadCheckpoint where a file changes meanwhile.
    """
    try:
        recorded = recorded_files(source)
    except BadCheckpoint as error:
        yield Difference(MANIFEST, error.message)
        return
    files = _files(source)
    if recorded is not None:
        for name in recorded.keys() - {printable(file.name) for file in files}:
            yield Difference(name, f"is missing: {MANIFEST} lists it")
    tasks = []
    for file in files:
        said = recorded.get(printable(file.name)) if recorded is not None else None
        if recorded is not None and said is None and file.name != MANIFEST:
            yield Difference(file.name, f"is not in {MANIFEST}")
        elif said is not None and said.size != file.size:
            yield Difference(file.name, f"has {file.size} bytes, {MANIFEST} says {said.size}")
        elif said is not None or sha256:
            tasks.append((file, said))
    yield VerifyStarted(sum(file.size for file, _ in tasks))

    with ThreadPoolExecutor(jobs, "reader") as readers:

        def look_at(
            readers: Executor, task: tuple[OtherFile, Recorded | None]
        ) -> Iterator[VerifyEvent]:
            return _read(source, *task, sha256, readers)

        yield from map_unordered(iter(tasks), jobs, lambda: readers, look_at, cancel)


def _files(source: Source) -> list[OtherFile]:
    """Every file of the checkpoint, shards first; of a DCP those of its chunks alone."""
    shards = [OtherFile(file.name, file.size) for file in source.checkpoint.files]
    if not has_files(source):
        return shards
    others = [other for other in source.checkpoint.others if not other.name.endswith("/")]
    return shards + others


def _read(
    source: Source,
    file: OtherFile,
    said: Recorded | None,
    sha256: bool,
    reader: Executor,
) -> Iterator[VerifyEvent]:
    """Read a file to its end, piece by piece."""
    block = min(file.size + 1, BLOCK_BYTES)
    ahead = ReadAhead(lambda data, offset: source.read_other(file, data, offset), block, reader)
    with closing(ahead):
        yield from _pieces(source, file, said, sha256, ahead)


def _pieces(
    source: Source, file: OtherFile, said: Recorded | None, sha256: bool, ahead: ReadAhead
) -> Iterator[VerifyEvent]:
    whole = hashlib.sha256() if sha256 or (said and said.sha256) else None
    pieces = said.pieces if said else ((file.size, ""),)
    position = 0
    for nbytes, expected in pieces:
        digest = xxh3_128()
        end = position + nbytes
        begin = position
        while position < end:
            data = ahead.read(end - position)
            if not data:
                raise BadCheckpoint(
                    f"{quoted(file.name)} has become shorter: it had {file.size} bytes"
                )
            digest.update(data)
            if whole is not None:
                whole.update(data)
            position += len(data)
        if expected and digest.hexdigest() != expected:
            inside = _tensors(source, file.name, begin, end)
            fact = f"bytes {begin} to {end} are not those that were written"
            yield Difference(file.name, f"{fact}: {inside}" if inside else fact)
        yield VerifyProgress(nbytes, file.name)
    if whole is not None:
        if said and said.sha256 and whole.hexdigest() != said.sha256:
            yield Difference(
                file.name, f"has SHA-256 {whole.hexdigest()}, {MANIFEST} says {said.sha256}"
            )
        yield FileHashed(file.name, whole.hexdigest())


def _tensors(source: Source, file: str, begin: int, end: int) -> str:
    """The first tensors that have bytes in a part of a file, and how many there are."""
    names = [
        info.name
        for info in source.checkpoint.tensors.values()
        if info.file == file and info.offset < end and begin < info.offset + info.nbytes
    ]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"

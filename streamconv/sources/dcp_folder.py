"""A torch.distributed.checkpoint in a local folder: `.metadata`, and files of chunks.

The pickle of `.metadata` is read as data and nothing in it is run. Each chunk's archive is looked
into at both ends, so that all of it is known to be there before anything is written; its bytes
are then read in place, never a whole chunk at once. Of what a training run leaves, the model is
taken and the rest is named.
"""

import gc
import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from streamconv.catalog.presets import Prefixes
from streamconv.checkpoint.types import Checkpoint, OtherFile, SourceFile, TensorInfo
from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.chunk_map import Box, ChunkMap, box_of
from streamconv.formats.dcp_metadata import (
    MAX_METADATA_BYTES,
    METADATA_FILE,
    read_metadata,
)
from streamconv.formats.dcp_tensors import Chunk, StoredTensor, check_chunks
from streamconv.formats.safetensors import (
    DTYPE_BITS,
    LENGTH_BYTES,
    Entry,
    header_length,
    is_safetensors,
    parse_header,
)
from streamconv.formats.torch_archive import Stored, around_tensor, find_tensor
from streamconv.sources.assembly import CONFIG
from streamconv.sources.base import Read
from streamconv.sources.local_files import LocalFiles
from streamconv.sources.other_files import other_files, select_copied_files
from streamconv.sources.safetensors_folder import json_object
from streamconv.sources.training_state import (
    model_tensors,
    read_streamconv_metadata,
    skipped_entries,
)
from streamconv.system.file_ops import Files
from streamconv.system.linux_file_ops import system_files

SCRATCH_BYTES = 2**18
"""What runs of a chunk are read through that are too short to be read one by one."""
SHORT_RUN = 2**16


class DcpSource:
    """A folder, opened. The descriptors of its files are kept until it is closed."""

    def __init__(
        self, checkpoint: Checkpoint, tensors: Mapping[str, ChunkMap], disk: LocalFiles
    ) -> None:
        self.checkpoint = checkpoint
        self._tensors = tensors
        self._disk = disk
        self._own = threading.local()

    def read(self, reads: Sequence[Read]) -> None:
        for read in reads:
            end = read.start + len(read.buffer)
            for box, runs in self._tensors[read.info.name].within(read.start, end):
                self._read_box(read, box, runs)

    def _read_box(self, read: Read, box: Box, runs: range) -> None:
        """Runs of one box into their places: long ones directly, short ones through a buffer."""
        if box.run >= SHORT_RUN or len(runs) == 1:
            for run in runs:
                at = box.position(run) - read.start
                skip = max(-at, 0)
                target = read.buffer[at + skip : at + box.run]
                self._disk.read_exact(box.file, box.begin + run * box.run + skip, target)
            return
        read_scratch_bytes = self._scratch()
        most = SCRATCH_BYTES // box.run
        for first in range(runs.start, runs.stop, most):
            batch = range(first, min(first + most, runs.stop))
            held = read_scratch_bytes[: len(batch) * box.run]
            self._disk.read_exact(box.file, box.begin + first * box.run, held)
            for number, run in enumerate(batch):
                at = box.position(run) - read.start
                skip = max(-at, 0)
                target = read.buffer[at + skip : at + box.run]
                begin = number * box.run + skip
                target[:] = held[begin : begin + len(target)]

    def _scratch(self) -> memoryview:
        if not hasattr(self._own, "read_scratch_bytes"):
            self._own.read_scratch_bytes = memoryview(bytearray(SCRATCH_BYTES))
        read_scratch_bytes: memoryview = self._own.read_scratch_bytes
        return read_scratch_bytes

    def read_other(self, other: OtherFile, buffer: memoryview, start: int) -> int:
        return self._disk.read(other.name, start, buffer)

    def check_unchanged(self) -> None:
        self._disk.check_unchanged()

    def close(self) -> None:
        self._disk.close()


def open_dcp(
    location: str, folder: Path, prefixes: Prefixes | None = None, files: Files | None = None
) -> DcpSource:
    """The checkpoint in the DCP at `folder`, which the user called `location`.

    `prefixes` are those of its keys, where they are not what it says itself. Raises BadCheckpoint
    where something is malformed, missing or contradicts itself.
    """
    files = files or system_files()
    disk = LocalFiles(folder, files)
    collecting = gc.isenabled()
    # nothing of what is read becomes garbage, and to look for some is to walk all of it each time
    gc.disable()
    try:
        return _opened(location, folder, disk, prefixes, files)
    except BaseException:
        disk.close()
        raise
    finally:
        if collecting:
            gc.enable()


def _opened(
    location: str, folder: Path, disk: LocalFiles, prefixes: Prefixes | None, files: Files
) -> DcpSource:
    from xxhash import xxh3_128_hexdigest

    if disk.size(METADATA_FILE) > MAX_METADATA_BYTES:
        raise BadCheckpoint(
            f"{METADATA_FILE}: {disk.size(METADATA_FILE)} bytes, "
            f"no such file has over {MAX_METADATA_BYTES}"
        )
    raw = disk.bytes_at(METADATA_FILE, 0, disk.size(METADATA_FILE))
    metadata = read_metadata(raw, METADATA_FILE)
    own = read_streamconv_metadata(metadata)
    names = dict(model_tensors(metadata, prefixes or own.prefixes))
    headers: _Headers = {}
    infos: dict[str, TensorInfo] = {}
    tensors: dict[str, ChunkMap] = {}
    for name, stored in names.items():
        tensors[name] = _boxes(stored, disk, headers)
        nbytes = math.prod(stored.shape) * DTYPE_BITS[stored.dtype] // 8
        file, begin = stored.chunks[0].file, tensors[name].boxes[0].begin if nbytes else 0
        infos[name] = TensorInfo(name, stored.dtype, stored.shape, file, begin, nbytes)
    used = {chunk.file for stored in names.values() for chunk in stored.chunks}
    digest = str(xxh3_128_hexdigest(raw))
    total = sum(info.nbytes for info in infos.values())
    there = {METADATA_FILE, *used, *(other.file for other in metadata.others)}
    there.update(chunk.file for stored in metadata.tensors for chunk in stored.chunks)
    cut = any(box.axes for boxes in tensors.values() for box in boxes.boxes)
    checkpoint = Checkpoint(
        location=location,
        tensors=infos,
        files=tuple(SourceFile(name, disk.size(name), digest) for name in sorted(used)),
        others=(
            *skipped_entries(metadata),
            *select_copied_files(list(other_files(folder, there, files)), total),
        ),
        config=json_object(folder, CONFIG, files) or own.config,
        record=own.record,
        manifest=own.manifest,
        total_bytes=total,
        format="dcp",
        read_scratch_bytes=SCRATCH_BYTES if cut else 0,
    )
    return DcpSource(checkpoint, tensors, disk)


_Headers = dict[tuple[str, int], tuple[int, Mapping[str, Entry]]]
"""Of each place in a file where safetensors begin: their first byte of data, and what they hold."""


def _boxes(stored: StoredTensor, disk: LocalFiles, headers: _Headers) -> ChunkMap:
    """Where a tensor's bytes are; refuses chunks that are not what the metadata says."""
    if stored.dtype not in DTYPE_BITS:
        raise BadCheckpoint(
            f"tensor {quoted(stored.key)} is {quoted(stored.dtype)}, which safetensors cannot hold"
        )
    check_chunks(stored)
    boxes = []
    for chunk in stored.chunks:
        what = f"tensor {quoted(stored.key)}, chunk at {list(chunk.offsets)}"
        size = disk.size(chunk.file)
        if chunk.offset + chunk.nbytes > size:
            raise BadCheckpoint(
                f"{what}: ends at byte {chunk.offset + chunk.nbytes} of {quoted(chunk.file)}, "
                f"which has {size}: the file is cut short"
            )
        found = _found(stored, chunk, disk, headers, what)
        if (found.dtype, found.shape) != (stored.dtype, chunk.sizes):
            raise BadCheckpoint(
                f"{what}: {quoted(chunk.file)} holds {found.dtype} {list(found.shape)} there, "
                f"{METADATA_FILE} says {stored.dtype} {list(chunk.sizes)}"
            )
        if math.prod(chunk.sizes):
            itemsize = DTYPE_BITS[stored.dtype] // 8
            begin = chunk.offset + found.begin
            boxes.append(
                box_of(stored.shape, chunk.offsets, chunk.sizes, itemsize, chunk.file, begin)
            )
    if len({(box.file, box.begin) for box in boxes}) < len(boxes):
        raise BadCheckpoint(
            f"tensor {quoted(stored.key)}: two of its chunks are said to be the same bytes"
        )
    return ChunkMap.of(boxes)


def _found(
    stored: StoredTensor, chunk: Chunk, disk: LocalFiles, headers: _Headers, what: str
) -> Stored:
    """What is there as a chunk: an archive of its own, or a tensor among others in safetensors."""

    def read(offset: int, count: int) -> bytes:
        return disk.bytes_at(chunk.file, chunk.offset + offset, min(count, chunk.nbytes - offset))

    # as it is written here, nothing of it has to be looked up
    head, tail = around_tensor(stored.dtype, chunk.sizes)
    tail_at = len(head) + math.prod(chunk.sizes) * DTYPE_BITS[stored.dtype] // 8
    as_here = tail_at + len(tail) == chunk.nbytes and read(0, len(head)) == head
    if as_here and read(tail_at, len(tail)) == tail:
        return Stored(stored.dtype, chunk.sizes, len(head))
    if not is_safetensors(disk.bytes_at(chunk.file, chunk.offset, LENGTH_BYTES + 1)):
        return find_tensor(read, chunk.nbytes, what)
    place = chunk.file, chunk.offset
    if place not in headers:
        headers[place] = _header_at(*place, disk)
    start, entries = headers[place]
    entry = entries.get(stored.key)
    if entry is None:
        raise BadCheckpoint(f"{what}: {quoted(chunk.file)} holds no tensor of that name")
    return Stored(entry.dtype, entry.shape, start + entry.begin)


def _header_at(file: str, offset: int, disk: LocalFiles) -> tuple[int, Mapping[str, Entry]]:
    """What the safetensors say that fill a file from `offset` on."""
    size = disk.size(file) - offset
    length = header_length(disk.bytes_at(file, offset, LENGTH_BYTES), size, quoted(file))
    raw = disk.bytes_at(file, offset + LENGTH_BYTES, length)
    header = parse_header(raw, size, quoted(file))
    return header.data_start, {entry.name: entry for entry in header.entries}

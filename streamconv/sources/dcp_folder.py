"""A torch.distributed.checkpoint (DCP) in a local folder: `.metadata`, and files of chunks.

    .metadata        a pickle: the chunks of each tensor, and where they are
    __0_0.distcp     the chunks that rank 0 saved
    __1_0.distcp     those of rank 1

The pickle is read as data: nothing in it is ever run. When the checkpoint is opened, both ends of
every chunk's archive are read, so a file that is cut short is found before anything is written.
Later the bytes are read from where they are, never a whole chunk at once. The model is converted;
the rest of what a training run saves is listed.
"""

import gc
import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from streamconv.catalog.checkpoint_files import CONFIG
from streamconv.catalog.presets import Prefixes
from streamconv.checkpoint.types import Checkpoint, OtherFile, SourceFile, TensorInfo
from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.chunk_map import Box, ChunkMap
from streamconv.formats.dcp_metadata import METADATA_FILE
from streamconv.formats.dcp_metadata_limits import (
    MAX_METADATA_BYTES,
    foreign_reading_bytes,
    reading_bytes,
)
from streamconv.formats.dcp_metadata_reader import Metadata, read_metadata
from streamconv.formats.dcp_tensors import StoredTensor
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.formats.strict_json import parse_json_object
from streamconv.sources.base import ByteRange, Read
from streamconv.sources.dcp_chunks import ChunkFinder
from streamconv.sources.local_files import LocalFiles
from streamconv.sources.other_files import other_files, select_copied_files
from streamconv.sources.safetensors_folder import read_json_file
from streamconv.sources.shard_header import header_digest
from streamconv.sources.training_state import (
    model_tensors,
    read_streamconv_metadata,
    skipped_entries,
)
from streamconv.system.absolute_paths import absolute_path
from streamconv.system.file_reads import FileReads
from streamconv.system.linux_file_ops import system_files

SCRATCH_BYTES = 2**18
"""The buffer of each thread that short runs are read through, many at a time."""
SHORT_RUN_BYTES = 2**16
"""Shorter runs go through the buffer; others are read directly."""


class DcpSource:
    """A DCP. A bounded number of its files stays open between reads."""

    def __init__(
        self, checkpoint: Checkpoint, chunk_maps: Mapping[str, ChunkMap], local: LocalFiles
    ) -> None:
        self.checkpoint = checkpoint
        self._chunk_maps = chunk_maps
        self._local = local
        self._thread = threading.local()

    def read(self, reads: Sequence[Read]) -> None:
        for read in reads:
            end = read.start + len(read.buffer)
            for box, runs in self._chunk_maps[read.info.name].within(read.start, end):
                if box.run >= SHORT_RUN_BYTES or len(runs) == 1:
                    self._read_directly(read, box, runs)
                else:
                    self._read_through_scratch(read, box, runs)

    def _read_directly(self, read: Read, box: Box, runs: range) -> None:
        """Read each run of a box into its part of the buffer."""
        for run in runs:
            target, skip = _target(read, box, run)
            self._local.read_exact(box.file, box.begin + run * box.run + skip, target)

    def _read_through_scratch(self, read: Read, box: Box, runs: range) -> None:
        """Read many runs of a box at once, as they are consecutive in the file, and copy each."""
        scratch = self._scratch()
        most = SCRATCH_BYTES // box.run
        for first in range(runs.start, runs.stop, most):
            batch = range(first, min(first + most, runs.stop))
            content = scratch[: len(batch) * box.run]
            self._local.read_exact(box.file, box.begin + first * box.run, content)
            for number, run in enumerate(batch):
                target, skip = _target(read, box, run)
                begin = number * box.run + skip
                target[:] = content[begin : begin + len(target)]

    def _scratch(self) -> memoryview:
        """Return the buffer of this thread."""
        if not hasattr(self._thread, "scratch"):
            self._thread.scratch = memoryview(bytearray(SCRATCH_BYTES))
        scratch: memoryview = self._thread.scratch
        return scratch

    def expect(self, ranges: Sequence[ByteRange]) -> None:
        for each in ranges:
            for box, runs in self._chunk_maps[each.info.name].within(each.begin, each.end):
                begin = box.begin + runs.start * box.run
                self._local.expect(box.file, begin, len(runs) * box.run)

    def read_other(self, other: OtherFile, buffer: memoryview, start: int) -> int:
        return self._local.read(other.name, start, buffer)

    def check_unchanged(self) -> None:
        self._local.check_unchanged()

    def close(self) -> None:
        self._local.close()


def _target(read: Read, box: Box, run: int) -> tuple[memoryview, int]:
    """Return the part of a read's buffer that a run fills, and the bytes of the run before it."""
    position = box.position(run) - read.start
    skip = max(-position, 0)
    return read.buffer[position + skip : position + box.run], skip


def open_dcp(
    location: str, folder: Path, prefixes: Prefixes | None = None, files: FileReads | None = None
) -> DcpSource:
    """Open the checkpoint in a DCP.

    Args:
        location: What the user calls it.
        folder: The folder that holds `.metadata`.
        prefixes: The prefixes of its keys; by default those that it records.
        files: The file operations to use.

    Raises:
        BadCheckpoint: Something is malformed, missing or contradicts itself.
        IOFailed: Reading failed.
    """
    files = files or system_files()
    local = LocalFiles(folder, files)
    gc_was_enabled = gc.isenabled()
    # nothing that is read becomes garbage, and a collection would walk through all of it
    gc.disable()
    try:
        return _open(location, folder, local, prefixes, files)
    except BaseException:
        local.close()
        raise
    finally:
        if gc_was_enabled:
            gc.enable()


def _open(
    location: str, folder: Path, local: LocalFiles, prefixes: Prefixes | None, files: FileReads
) -> DcpSource:
    raw = _metadata_bytes(local)
    metadata = read_metadata(raw, METADATA_FILE)
    recorded = read_streamconv_metadata(metadata)
    tensors = dict(model_tensors(metadata, prefixes or recorded.prefixes))
    finder = ChunkFinder(local)
    chunk_maps = {name: finder.chunk_map(stored) for name, stored in tensors.items()}
    if metadata.own is not None:
        for value in metadata.others:
            finder.check_value(value)
    infos = {name: _tensor_info(name, tensors[name], chunk_maps[name]) for name in tensors}
    used = {chunk.file for stored in tensors.values() for chunk in stored.chunks}
    digest = header_digest(raw)
    total_bytes = sum(info.nbytes for info in infos.values())
    others = other_files(folder, _files_of(metadata), files)
    config_text = read_json_file(folder, CONFIG, files)
    config = {} if config_text is None else parse_json_object(config_text, quoted(CONFIG))
    has_cut_rows = any(box.axes for chunks in chunk_maps.values() for box in chunks.boxes)
    checkpoint = Checkpoint(
        location=location,
        local_paths=tuple(str(absolute_path(path)) for path in (location, folder)),
        tensors=infos,
        files=tuple(SourceFile(name, local.size(name), digest) for name in sorted(used)),
        others=(*skipped_entries(metadata), *select_copied_files(list(others), total_bytes)),
        config=config or recorded.config,
        config_text=config_text or b"",
        record=recorded.record,
        manifest=recorded.manifest,
        undigested=() if metadata.has_digest else (METADATA_FILE,),
        total_bytes=total_bytes,
        format="dcp",
        read_scratch_bytes=SCRATCH_BYTES if has_cut_rows else 0,
        metadata_bytes=_reading_bytes(metadata, len(raw)),
    )
    return DcpSource(checkpoint, chunk_maps, local)


def _reading_bytes(metadata: Metadata, nbytes: int) -> int:
    """Return the bytes of memory that reading the `.metadata`, of `nbytes`, takes again."""
    if metadata.own is None:
        return foreign_reading_bytes(nbytes)
    chunks = sum(len(stored.chunks) for stored in metadata.tensors)
    return reading_bytes(len(metadata.tensors), chunks)


def _metadata_bytes(local: LocalFiles) -> bytes:
    size = local.size(METADATA_FILE)
    if size > MAX_METADATA_BYTES:
        raise BadCheckpoint(
            f"cannot read {METADATA_FILE}: it has {size} bytes, no such file has over "
            f"{MAX_METADATA_BYTES}"
        )
    return local.bytes_at(METADATA_FILE, 0, size)


def _files_of(metadata: Metadata) -> set[str]:
    """Return the names of all files that a DCP consists of."""
    return {
        METADATA_FILE,
        *(chunk.file for stored in metadata.tensors for chunk in stored.chunks),
        *(value.file for value in metadata.others),
    }


def _tensor_info(name: str, stored: StoredTensor, chunk_map: ChunkMap) -> TensorInfo:
    nbytes = math.prod(stored.shape) * DTYPE_BITS[stored.dtype] // 8
    begin = chunk_map.boxes[0].begin if nbytes else 0
    return TensorInfo(name, stored.dtype, stored.shape, stored.chunks[0].file, begin, nbytes)

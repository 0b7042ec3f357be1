"""Where the chunks of a DCP are in its files.

A chunk is an archive of torch.save, which is a zip file without compression, or a tensor in a file
of safetensors, under the key that `.metadata` has for it. Both ends of an archive are read, and the
tensor in it is compared with what `.metadata` says.
"""

import math
from collections.abc import Mapping

from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.chunk_map import ChunkMap, box_of
from streamconv.formats.dcp_metadata import METADATA_FILE
from streamconv.formats.dcp_tensors import Chunk, StoredBytes, StoredTensor, check_chunks
from streamconv.formats.safetensors import DTYPE_BITS, LENGTH_BYTES, Entry
from streamconv.formats.safetensors_reader import header_length, is_safetensors, parse_header
from streamconv.formats.torch_archive_reader import ArchivedTensor, check_value, find_tensor
from streamconv.formats.torch_archive_writer import around_tensor
from streamconv.sources.local_files import LocalFiles


class ChunkFinder:
    """Finds where in the files the bytes of chunks begin, and checks what is there."""

    def __init__(self, local: LocalFiles) -> None:
        self._local = local
        self._headers: dict[tuple[str, int], tuple[int, Mapping[str, Entry]]] = {}
        """By file and offset of the safetensors there: first byte of data, and tensors by name."""

    def chunk_map(self, stored: StoredTensor) -> ChunkMap:
        """Return where the bytes of a tensor are.

        Raises BadCheckpoint if a chunk is missing, cut short, or not as the metadata says.
        """
        if stored.dtype not in DTYPE_BITS:
            raise BadCheckpoint(
                f"tensor {quoted(stored.key)} is {quoted(stored.dtype)}, which safetensors cannot "
                "hold"
            )
        check_chunks(stored)
        boxes = []
        for chunk in stored.chunks:
            begin = self._begin_of(stored, chunk)
            if math.prod(chunk.sizes):
                itemsize = DTYPE_BITS[stored.dtype] // 8
                boxes.append(
                    box_of(stored.shape, chunk.offsets, chunk.sizes, itemsize, chunk.file, begin)
                )
        if len({(box.file, box.begin) for box in boxes}) < len(boxes):
            raise BadCheckpoint(
                f"tensor {quoted(stored.key)}: {METADATA_FILE} says of two chunks that they are "
                "the same bytes"
            )
        return ChunkMap.of(boxes)

    def _begin_of(self, stored: StoredTensor, chunk: Chunk) -> int:
        """Return the byte of its file at which the elements of a chunk begin."""
        label = f"tensor {quoted(stored.key)}, chunk at {list(chunk.offsets)}"
        self._check_end(chunk.file, chunk.offset + chunk.nbytes, label)
        found = self._find(stored, chunk, label)
        if (found.dtype, found.shape) != (stored.dtype, chunk.sizes):
            raise BadCheckpoint(
                f"{label}: {quoted(chunk.file)} holds {found.dtype} {list(found.shape)} there, "
                f"{METADATA_FILE} says {stored.dtype} {list(chunk.sizes)}"
            )
        return chunk.offset + found.begin

    def check_value(self, value: StoredBytes) -> None:
        """Refuse a value that is no tensor unless its archive is intact. Raises BadCheckpoint.

        Only for values that this package wrote: those of a training run may be of any size.
        """
        label = f"value {quoted(value.key)}"
        self._check_end(value.file, value.offset + value.nbytes, label)

        def read(offset: int, count: int) -> bytes:
            count = min(count, value.nbytes - offset)
            return self._local.bytes_at(value.file, value.offset + offset, count)

        check_value(read, value.nbytes, label)

    def _check_end(self, file: str, end: int, label: str) -> None:
        """Refuse an archive that would end after its file. Raises BadCheckpoint."""
        size = self._local.size(file)
        if end > size:
            raise BadCheckpoint(
                f"{label}: ends at byte {end} of {quoted(file)}, which has {size}: the file is cut "
                "short"
            )

    def _find(self, stored: StoredTensor, chunk: Chunk, label: str) -> ArchivedTensor:
        """Return the tensor that is stored as a chunk: in an archive, or in safetensors."""

        def read(offset: int, count: int) -> bytes:
            count = min(count, chunk.nbytes - offset)
            return self._local.bytes_at(chunk.file, chunk.offset + offset, count)

        # streamconv's own archives are known byte for byte, so nothing in them has to be parsed
        head, tail = around_tensor(stored.dtype, chunk.sizes)
        tail_begin = len(head) + math.prod(chunk.sizes) * DTYPE_BITS[stored.dtype] // 8
        has_size_and_head = tail_begin + len(tail) == chunk.nbytes and read(0, len(head)) == head
        if has_size_and_head and read(tail_begin, len(tail)) == tail:
            return ArchivedTensor(stored.dtype, chunk.sizes, len(head))
        if not is_safetensors(self._local.bytes_at(chunk.file, chunk.offset, LENGTH_BYTES + 1)):
            return find_tensor(read, chunk.nbytes, label)
        data_start, entries = self._header_at(chunk.file, chunk.offset)
        entry = entries.get(stored.key)
        if entry is None:
            raise BadCheckpoint(f"{label}: {quoted(chunk.file)} holds no tensor of that name")
        return ArchivedTensor(entry.dtype, entry.shape, data_start + entry.begin)

    def _header_at(self, file: str, offset: int) -> tuple[int, Mapping[str, Entry]]:
        """Read the header of the safetensors that fill a file from `offset` on, once."""
        if (file, offset) not in self._headers:
            size = self._local.size(file) - offset
            prefix = self._local.bytes_at(file, offset, LENGTH_BYTES)
            length = header_length(prefix, size, quoted(file))
            raw = self._local.bytes_at(file, offset + LENGTH_BYTES, length)
            header = parse_header(raw, size, quoted(file))
            entries = {entry.name: entry for entry in header.entries}
            self._headers[file, offset] = header.data_start, entries
        return self._headers[file, offset]

"""A zip archive whose files are stored as they are: built, and searched for a file.

    for each file      local header (30 bytes), name, extra field, content
    directory          for each file: entry (46 bytes), name, extra field, comment
    zip64 end record   number of files; size and offset of the directory, 64 bits each
    zip64 locator      offset of the record above
    end record         the same numbers, as far as they fit 16 and 32 bits

A size or offset that does not fit 32 bits is 0xFFFFFFFF, and is in a zip64 extra field. Source:
PKWARE's APPNOTE.TXT, 4.3 and 4.5.3, and `caffe2/serialize/inline_container.cc` for the padding.

The last file of an archive that is built here is the payload. No other byte depends on its content:
its checksum is left at 0, which torch's readers do not check.
"""

import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from streamconv.errors import BadCheckpoint, quoted

FOLDER = "archive"
"""The folder in the archive that holds all files."""
ALIGNMENT = 64
"""The payload begins at a multiple of this many bytes."""
WINDOW_BYTES = 1024
"""How much of each end of an archive is read at once. What torch writes there fits."""
MAX_FILES = 64

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_ENTRY = struct.Struct("<4sHHHHHHIIIHHHHHII")
_ZIP64_FIELD = struct.Struct("<HHQQ")
_ZIP64_END = struct.Struct("<4sQHHIIQQQQ")
_ZIP64_LOCATOR = struct.Struct("<4sIQI")
_END = struct.Struct("<4sHHHHIIH")
_TAIL_BYTES = _ZIP64_END.size + _ZIP64_LOCATOR.size + _END.size
_LOCAL_MAGIC, _ENTRY_MAGIC, _END_MAGIC = b"PK\3\4", b"PK\1\2", b"PK\5\6"
_ZIP64_END_MAGIC, _ZIP64_LOCATOR_MAGIC = b"PK\6\6", b"PK\6\7"

_IN_ZIP64 = 0xFFFFFFFF
"""A size or offset that is in the zip64 extra field."""
_ZIP64_KIND, _PADDING_KIND = 1, 0x4246
"""Kinds of extra fields: the 64-bit sizes, and torch's padding."""
_VERSION = 45
"""The first version of the format that knows zip64."""
_UTF8_NAMES, _NO_DATE, _ENCRYPTED = 0x800, 0x21, 1


# --- written -----------------------------------------------------------------------------------


def around_payload(
    files: Mapping[str, bytes], payload_bytes: int | None, payload_name: str
) -> tuple[bytes, bytes]:
    """Build the bytes of an archive before and after its payload.

    Args:
        files: Names and contents of the files before the payload.
        payload_bytes: Size of the payload, or None if there is none.
        payload_name: Name of the payload.
    """
    head, directory = bytearray(), bytearray()
    for name, content in files.items():
        checksum = zlib.crc32(content)
        directory += _entry(name, checksum, len(content), b"", len(head))
        head += _local_header(name, checksum, len(content), b"") + content
    if payload_bytes is not None:
        sizes = _ZIP64_FIELD.pack(_ZIP64_KIND, 16, payload_bytes, payload_bytes)
        directory += _entry(payload_name, 0, _IN_ZIP64, sizes, len(head))
        unpadded = len(head) + len(_local_header(payload_name, 0, _IN_ZIP64, sizes))
        extra = sizes + _padding(unpadded)
        head += _local_header(payload_name, 0, _IN_ZIP64, extra)
    count = len(files) + (payload_bytes is not None)
    directory_at = len(head) + (payload_bytes or 0)
    return bytes(head), bytes(directory + _end_records(count, len(directory), directory_at))


def _padding(position: int) -> bytes:
    """Build the extra field that moves what follows it from `position` to a multiple of 64."""
    nbytes = -(position + 4) % ALIGNMENT
    return struct.pack("<HH", _PADDING_KIND, nbytes) + bytes(nbytes)


def _local_header(name: str, checksum: int, size: int, extra: bytes) -> bytes:
    raw = f"{FOLDER}/{name}".encode()
    numbers = (checksum, size, size, len(raw), len(extra))
    fixed = _LOCAL.pack(_LOCAL_MAGIC, _VERSION, _UTF8_NAMES, 0, 0, _NO_DATE, *numbers)
    return fixed + raw + extra


def _entry(name: str, checksum: int, size: int, extra: bytes, header_at: int) -> bytes:
    raw = f"{FOLDER}/{name}".encode()
    numbers = (checksum, size, size, len(raw), len(extra), 0, 0, 0, 0, header_at)
    fixed = _ENTRY.pack(_ENTRY_MAGIC, 0, _VERSION, _UTF8_NAMES, 0, 0, _NO_DATE, *numbers)
    return fixed + raw + extra


def _end_records(count: int, directory_bytes: int, directory_at: int) -> bytes:
    wide = (count, count, directory_bytes, directory_at)
    narrow = (count, count, directory_bytes, min(directory_at, _IN_ZIP64))
    rest_bytes = _ZIP64_END.size - 12
    return (
        _ZIP64_END.pack(_ZIP64_END_MAGIC, rest_bytes, _VERSION, _VERSION, 0, 0, *wide)
        + _ZIP64_LOCATOR.pack(_ZIP64_LOCATOR_MAGIC, 0, directory_at + directory_bytes, 1)
        + _END.pack(_END_MAGIC, 0, 0, *narrow, 0)
    )


# --- read --------------------------------------------------------------------------------------

ReadAt = Callable[[int, int], bytes]
"""Returns a number of bytes from an offset in the archive: `read(offset, count)`. Fewer bytes only
at the end of the archive."""


class Window:
    """An archive of which both ends are in memory, and the rest is read if it is needed."""

    def __init__(self, read: ReadAt, nbytes: int, label: str) -> None:
        """Read both ends of an archive of `nbytes`; `label` names it in errors."""
        self._read = read
        self._label = label
        self.nbytes = nbytes
        self._tail_at = max(nbytes - WINDOW_BYTES, 0)
        self._tail = read(self._tail_at, min(nbytes, WINDOW_BYTES))
        self._head = read(0, WINDOW_BYTES) if self._tail_at else self._tail

    def bytes_at(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset`. Raises BadCheckpoint if the archive lacks them."""
        end = offset + count
        if not 0 <= offset <= end <= self.nbytes:
            raise self.refusal(f"bytes {offset} to {end} are outside of it")
        if end <= len(self._head):
            return self._head[offset:end]
        if offset >= self._tail_at:
            return self._tail[offset - self._tail_at : end - self._tail_at]
        return self._read(offset, count)

    def refusal(self, fact: str) -> BadCheckpoint:
        """Build the error for an archive that is not as it should be."""
        return BadCheckpoint(f"cannot read {self._label}: not a tensor of torch.save: {fact}")


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A file in an archive."""

    header_at: int
    """Bytes from the start of the archive to its local header."""
    size: int

    def locate(self, window: Window) -> tuple[int, int]:
        """Return the offset and the size of the content. Raises BadCheckpoint."""
        magic, *_, name_bytes, extra_bytes = _LOCAL.unpack(
            window.bytes_at(self.header_at, _LOCAL.size)
        )
        if magic != _LOCAL_MAGIC:
            raise window.refusal(f"there is no file at byte {self.header_at}")
        begin = self.header_at + _LOCAL.size + name_bytes + extra_bytes
        if begin + self.size > window.nbytes:
            raise window.refusal(
                f"a file in it ends at {begin + self.size}, it has {window.nbytes}"
            )
        return begin, self.size


def read_directory(window: Window) -> dict[str, ZipMember]:
    """Return the files in an archive, by name below its folder.

    Raises BadCheckpoint for a file that is compressed, encrypted, or there twice.
    """
    count, nbytes, offset = _locate_directory(window)
    if count > MAX_FILES:
        raise window.refusal(f"it holds {count} files")
    raw = window.bytes_at(offset, nbytes)
    members: dict[str, ZipMember] = {}
    position = 0
    for _ in range(count):
        if len(raw) - position < _ENTRY.size:
            raise window.refusal("its directory ends too early")
        fields = _ENTRY.unpack_from(raw, position)
        magic, _, _, flags, method, _, _, _, packed, size = fields[:10]
        name_bytes, extra_bytes, comment_bytes = fields[10:13]
        name_at = position + _ENTRY.size
        extra_at = name_at + name_bytes
        name = raw[name_at:extra_at].decode("utf-8", "replace").partition("/")[2]
        extra = raw[extra_at : extra_at + extra_bytes]
        compressed = method != 0 or packed != size
        if magic != _ENTRY_MAGIC or compressed or flags & _ENCRYPTED or name in members:
            raise window.refusal(f"{quoted(name)} in it is compressed, encrypted or there twice")
        members[name] = _resolve_zip64(window, fields[16], size, extra)
        position = extra_at + extra_bytes + comment_bytes
    return members


def _locate_directory(window: Window) -> tuple[int, int, int]:
    """Return the number of files, and size and offset of the directory, from the end records."""
    if window.nbytes < _END.size:
        raise window.refusal(f"{window.nbytes} bytes are too few")
    end = _END.unpack(window.bytes_at(window.nbytes - _END.size, _END.size))
    if end[0] != _END_MAGIC:
        raise window.refusal("no zip directory at its end: cut short, or another format")
    if window.nbytes >= _TAIL_BYTES:
        wide = _ZIP64_END.unpack(window.bytes_at(window.nbytes - _TAIL_BYTES, _ZIP64_END.size))
        if wide[0] == _ZIP64_END_MAGIC:
            return wide[7], wide[8], wide[9]
    return end[4], end[5], end[6]


def _resolve_zip64(window: Window, header_at: int, size: int, extra: bytes) -> ZipMember:
    """Build a member whose size or offset may be in the zip64 field of its extra fields.

    The field has, in this order and only if they do not fit 32 bits: the size, the size once more
    as it is stored, the offset.
    """
    large_size, large_offset = size == _IN_ZIP64, header_at == _IN_ZIP64
    if not large_size and not large_offset:
        return ZipMember(header_at, size)
    numbers = _zip64_numbers(extra)
    needed = 2 * large_size + large_offset
    if len(numbers) < needed:
        raise window.refusal("its directory lacks a 64-bit size")
    return ZipMember(
        numbers[needed - 1] if large_offset else header_at, numbers[0] if large_size else size
    )


def _zip64_numbers(extra: bytes) -> list[int]:
    """Return the numbers in the zip64 field among the extra fields of an entry."""
    position = 0
    while position + 4 <= len(extra):
        kind, nbytes = struct.unpack_from("<HH", extra, position)
        values = extra[position + 4 : position + 4 + nbytes]
        if kind == _ZIP64_KIND:
            return [n for (n,) in struct.iter_unpack("<Q", values[: len(values) // 8 * 8])]
        position += 4 + nbytes
    return []

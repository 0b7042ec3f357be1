"""A zip archive of files that are stored as they are: built, and looked into. Pure.

Nothing of it depends on the payload but its length; the payload's checksum is left at 0, as torch's
readers do not check it. Source: PKWARE's APPNOTE.TXT, 4.3 and 4.5.3, and
`caffe2/serialize/inline_container.cc` for the padding.
"""

import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from streamconv.errors import BadCheckpoint, quoted

FOLDER = "archive"
"""The folder that all files lie in."""
ALIGNMENT = 64
"""What the payload's place in the archive is a multiple of."""
WINDOW_BYTES = 1024
"""What is read of an archive at either end; what torch writes there fits."""
MAX_ENTRIES = 64

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_ENTRY = struct.Struct("<4sHHHHHHIIIHHHHHII")
_WIDE_FIELD = struct.Struct("<HHQQ")
_WIDE_END = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR = struct.Struct("<4sIQI")
_END = struct.Struct("<4sHHHHIIH")
_WIDE, _ZIP64, _PADDING = 0xFFFFFFFF, 45, 0x4246
_ENDS_BYTES = _WIDE_END.size + _LOCATOR.size + _END.size


# --- written -----------------------------------------------------------------------------------


def around(
    files: Mapping[str, bytes], payload: int | None, payload_name: str
) -> tuple[bytes, bytes]:
    """Everything before and behind `payload` bytes, which follow the files; None for no payload."""
    head, directory = bytearray(), bytearray()
    for name, content in files.items():
        crc = zlib.crc32(content)
        directory += _entry(name, crc, len(content), b"", len(head))
        head += _local(name, crc, len(content), b"") + content
    if payload is not None:
        wide = _WIDE_FIELD.pack(1, 16, payload, payload)
        begin = len(head) + len(_local(payload_name, 0, _WIDE, wide)) + 4
        padding = struct.pack("<HH", _PADDING, -begin % ALIGNMENT) + bytes(-begin % ALIGNMENT)
        directory += _entry(payload_name, 0, _WIDE, wide, len(head))
        head += _local(payload_name, 0, _WIDE, wide + padding)
    count = len(files) + (payload is not None)
    at = len(head) + (payload or 0)
    tail = directory + _WIDE_END.pack(
        b"PK\6\6", _WIDE_END.size - 12, _ZIP64, _ZIP64, 0, 0, count, count, len(directory), at
    )
    tail += _LOCATOR.pack(b"PK\6\7", 0, at + len(directory), 1)
    tail += _END.pack(b"PK\5\6", 0, 0, count, count, len(directory), min(at, _WIDE), 0)
    return bytes(head), bytes(tail)


def _local(name: str, crc: int, size: int, extra: bytes) -> bytes:
    raw = f"{FOLDER}/{name}".encode()
    fixed = _LOCAL.pack(b"PK\3\4", _ZIP64, 0x800, 0, 0, 0x21, crc, size, size, len(raw), len(extra))
    return fixed + raw + extra


def _entry(name: str, crc: int, size: int, extra: bytes, at: int) -> bytes:
    raw = f"{FOLDER}/{name}".encode()
    sizes = (crc, size, size, len(raw), len(extra))
    fixed = _ENTRY.pack(b"PK\1\2", 0, _ZIP64, 0x800, 0, 0, 0x21, *sizes, 0, 0, 0, 0, at)
    return fixed + raw + extra


# --- read --------------------------------------------------------------------------------------

ReadAt = Callable[[int, int], bytes]
"""Reads so many bytes from an offset in the archive; fewer only where it ends."""


class Window:
    """The two ends of an archive, and what has to be read in between."""

    def __init__(self, read: ReadAt, nbytes: int, what: str) -> None:
        self._read = read
        self._what = what
        self.nbytes = nbytes
        self._tail_at = max(nbytes - WINDOW_BYTES, 0)
        self._tail = read(self._tail_at, min(nbytes, WINDOW_BYTES))
        self._head = read(0, WINDOW_BYTES) if self._tail_at else self._tail

    def bytes_at(self, offset: int, count: int) -> bytes:
        end = offset + count
        if not 0 <= offset <= end <= self.nbytes:
            raise self.refusal(f"bytes {offset} to {end} are outside of it")
        if end <= len(self._head):
            return self._head[offset:end]
        if offset >= self._tail_at:
            return self._tail[offset - self._tail_at : end - self._tail_at]
        return self._read(offset, count)

    def refusal(self, fact: str) -> BadCheckpoint:
        return BadCheckpoint(f"{self._what}: not a tensor as torch.save stores it: {fact}")


@dataclass(frozen=True, slots=True)
class ZipMember:
    local: int
    size: int

    def place(self, window: Window) -> tuple[int, int]:
        """Where its content begins, and its size."""
        fields = _LOCAL.unpack(window.bytes_at(self.local, _LOCAL.size))
        if fields[0] != b"PK\3\4":
            raise window.refusal(f"there is no file at byte {self.local}")
        begin = self.local + _LOCAL.size + fields[9] + fields[10]
        if begin + self.size > window.nbytes:
            raise window.refusal(
                f"a file in it ends at {begin + self.size}, it has {window.nbytes}"
            )
        return begin, self.size


def members_of(window: Window) -> dict[str, ZipMember]:
    """The files in an archive, by name below its folder."""
    if window.nbytes < _END.size:
        raise window.refusal(f"{window.nbytes} bytes are too few")
    end = _END.unpack(window.bytes_at(window.nbytes - _END.size, _END.size))
    if end[0] != b"PK\5\6":
        raise window.refusal("no zip directory at its end: cut short, or another format")
    count, size, at = end[4:7]
    if window.nbytes >= _ENDS_BYTES:
        wide = _WIDE_END.unpack(window.bytes_at(window.nbytes - _ENDS_BYTES, _WIDE_END.size))
        if wide[0] == b"PK\6\6":
            count, size, at = wide[7:10]
    if count > MAX_ENTRIES:
        raise window.refusal(f"it holds {count} files")
    raw = window.bytes_at(at, size)
    members: dict[str, ZipMember] = {}
    position = 0
    for _ in range(count):
        if len(raw) - position < _ENTRY.size:
            raise window.refusal("its directory ends too early")
        fields = _ENTRY.unpack_from(raw, position)
        flags, method = fields[3:5]
        stored, length, name_bytes, extra_bytes, note_bytes = fields[8:13]
        name_at = position + _ENTRY.size
        name = raw[name_at : name_at + name_bytes].decode("utf-8", "replace").partition("/")[2]
        extra = raw[name_at + name_bytes :][:extra_bytes]
        if fields[0] != b"PK\1\2" or method or flags & 1 or stored != length or name in members:
            raise window.refusal(f"{quoted(name)} in it is compressed, encrypted or there twice")
        members[name] = ZipMember(*_wide(window, fields[16], length, extra))
        position = name_at + name_bytes + extra_bytes + note_bytes
    return members


def _wide(window: Window, local: int, size: int, extra: bytes) -> tuple[int, int]:
    """Offset and size of an entry, from its 64-bit field where they do not fit."""
    position = 0
    while _WIDE in (local, size) and position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        values = extra[position + 4 : position + 4 + length]
        if kind == 1:
            numbers = [n for (n,) in struct.iter_unpack("<Q", values[: len(values) // 8 * 8])]
            wanted = 2 * (size == _WIDE) + (local == _WIDE)
            if len(numbers) < wanted:
                break
            size = numbers[0] if size == _WIDE else size
            local = numbers[wanted - 1] if local == _WIDE else local
            return local, size
        position += 4 + length
    if _WIDE in (local, size):
        raise window.refusal("its directory lacks a 64-bit size")
    return local, size

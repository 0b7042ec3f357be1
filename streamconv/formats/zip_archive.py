"""A zip archive whose files are stored as they are: its records, and how one is built.

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
from collections.abc import Mapping

FOLDER = "archive"
"""The folder in the archive that holds all files."""
ALIGNMENT = 64
"""The payload begins at a multiple of this many bytes."""

LOCAL = struct.Struct("<4sHHHHHIIIHH")
ENTRY = struct.Struct("<4sHHHHHHIIIHHHHHII")
ZIP64_FIELD = struct.Struct("<HHQQ")
ZIP64_END = struct.Struct("<4sQHHIIQQQQ")
ZIP64_LOCATOR = struct.Struct("<4sIQI")
END = struct.Struct("<4sHHHHIIH")
LOCAL_MAGIC, ENTRY_MAGIC, END_MAGIC = b"PK\3\4", b"PK\1\2", b"PK\5\6"
ZIP64_END_MAGIC, ZIP64_LOCATOR_MAGIC = b"PK\6\6", b"PK\6\7"

IN_ZIP64 = 0xFFFFFFFF
"""A size or offset that is in the zip64 extra field."""
ZIP64_KIND, PADDING_KIND = 1, 0x4246
"""Kinds of extra fields: the 64-bit sizes, and torch's padding."""
VERSION = 45
"""The first version of the format that knows zip64."""
UTF8_NAMES, NO_DATE = 0x800, 0x21


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
        sizes = ZIP64_FIELD.pack(ZIP64_KIND, 16, payload_bytes, payload_bytes)
        directory += _entry(payload_name, 0, IN_ZIP64, sizes, len(head))
        unpadded = len(head) + len(_local_header(payload_name, 0, IN_ZIP64, sizes))
        extra = sizes + _padding(unpadded)
        head += _local_header(payload_name, 0, IN_ZIP64, extra)
    count = len(files) + (payload_bytes is not None)
    directory_at = len(head) + (payload_bytes or 0)
    return bytes(head), bytes(directory + _end_records(count, len(directory), directory_at))


def _padding(position: int) -> bytes:
    """Build the extra field that moves what follows it from `position` to a multiple of 64."""
    nbytes = -(position + 4) % ALIGNMENT
    return struct.pack("<HH", PADDING_KIND, nbytes) + bytes(nbytes)


def _local_header(name: str, checksum: int, size: int, extra: bytes) -> bytes:
    raw = f"{FOLDER}/{name}".encode()
    numbers = (checksum, size, size, len(raw), len(extra))
    fixed = LOCAL.pack(LOCAL_MAGIC, VERSION, UTF8_NAMES, 0, 0, NO_DATE, *numbers)
    return fixed + raw + extra


def _entry(name: str, checksum: int, size: int, extra: bytes, header_at: int) -> bytes:
    raw = f"{FOLDER}/{name}".encode()
    numbers = (checksum, size, size, len(raw), len(extra), 0, 0, 0, 0, header_at)
    fixed = ENTRY.pack(ENTRY_MAGIC, 0, VERSION, UTF8_NAMES, 0, 0, NO_DATE, *numbers)
    return fixed + raw + extra


def _end_records(count: int, directory_bytes: int, directory_at: int) -> bytes:
    wide = (count, count, directory_bytes, directory_at)
    narrow = (count, count, directory_bytes, min(directory_at, IN_ZIP64))
    rest_bytes = ZIP64_END.size - 12
    return (
        ZIP64_END.pack(ZIP64_END_MAGIC, rest_bytes, VERSION, VERSION, 0, 0, *wide)
        + ZIP64_LOCATOR.pack(ZIP64_LOCATOR_MAGIC, 0, directory_at + directory_bytes, 1)
        + END.pack(END_MAGIC, 0, 0, *narrow, 0)
    )

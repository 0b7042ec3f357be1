"""The files in a zip archive, found as every reader of it finds them.

    for each file      local header, name, extra field, content; a descriptor may follow
    directory          for each file: entry, name, extra field, comment
    end records        number of files; size and offset of the directory

Several records describe a file, and readers differ in which of them they believe: torch's
takes sizes and offsets from the directory, the start of a content from the local header, and names
without regard to case. So all of them have to agree here, and to account for every byte. The
records are those of `zip_archive.py`.
"""

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.zip_archive import (
    END,
    END_MAGIC,
    ENTRY,
    ENTRY_MAGIC,
    IN_ZIP64,
    LOCAL,
    LOCAL_MAGIC,
    UTF8_NAMES,
    ZIP64_END,
    ZIP64_END_MAGIC,
    ZIP64_KIND,
    ZIP64_LOCATOR,
    ZIP64_LOCATOR_MAGIC,
)
from streamconv.formats.zip_window import Window

MAX_FILES = 64

_DESCRIPTORS = struct.Struct("<4sIII"), struct.Struct("<4sIQQ")
"""What may follow a content whose size was not known before: checksum, size, and size again."""
_DESCRIPTOR_MAGIC = b"PK\7\10"
_DESCRIBED_LATER = 8
_PLAIN_FLAGS = UTF8_NAMES | _DESCRIBED_LATER
"""All flags that a file may have. Others say that it is encrypted, patched or masked."""
_IS_FOLDER = 0x10
"""An attribute. torch reads no byte of an entry that has it."""


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A file in an archive, as the directory describes it."""

    full_name: bytes
    flags: int
    checksum: int
    header_at: int
    """Bytes from the start of the archive to its local header."""
    size: int

    def locate(self, window: Window) -> tuple[int, int]:
        """Return the offset and the size of the content.

        Raises BadCheckpoint if the local header contradicts the directory.
        """
        fields = LOCAL.unpack(window.bytes_at(self.header_at, LOCAL.size))
        magic, _, flags, method, _, _, checksum, packed, size, name_bytes, extra_bytes = fields
        if magic != LOCAL_MAGIC:
            raise window.refusal(f"there is no file at byte {self.header_at}")
        name = window.bytes_at(self.header_at + LOCAL.size, name_bytes)
        left_open = (0, IN_ZIP64) if flags & _DESCRIBED_LATER else (IN_ZIP64,)
        sizes_agree = all(n == self.size or n in left_open for n in (packed, size))
        checksum_agrees = checksum == self.checksum or (flags & _DESCRIBED_LATER and not checksum)
        if name != self.full_name or (flags, method) != (self.flags, 0):
            raise self._contradiction(window)
        if not sizes_agree or not checksum_agrees:
            raise self._contradiction(window)
        begin = self.header_at + LOCAL.size + name_bytes + extra_bytes
        if begin + self.size > window.nbytes:
            raise window.refusal(
                f"a file in it ends at {begin + self.size}, it has {window.nbytes}"
            )
        return begin, self.size

    def end(self, window: Window, following: int) -> int:
        """Return the offset of the first byte that belongs to no part of this file.

        Args:
            window: The archive.
            following: Where the next file or the directory begins. A descriptor is looked for up to
                there: checksum and sizes once more, 32 or 64 bits each.
        """
        begin, size = self.locate(window)
        end = begin + size
        if self.flags & _DESCRIBED_LATER:
            for form in _DESCRIPTORS:
                said = (_DESCRIPTOR_MAGIC, self.checksum, size, size)
                if following - end == form.size:
                    if form.unpack(window.bytes_at(end, form.size)) != said:
                        raise self._contradiction(window)
                    return following
        return end

    def is_intact(self, window: Window) -> bool:
        """Return True if the content has the checksum that the directory has for it."""
        return zlib.crc32(window.bytes_at(*self.locate(window))) == self.checksum

    def _contradiction(self, window: Window) -> BadCheckpoint:
        name = quoted(self.full_name.decode("utf-8", "replace"))
        return window.refusal(f"the local header or descriptor of {name} contradicts the directory")


def read_directory(window: Window) -> dict[str, ZipMember]:
    """Return the files in an archive, by name below its folder.

    What is returned is what every reader finds: torch's takes sizes and offsets from the directory,
    the start of a content from the local header, and names without regard to case.

    Raises BadCheckpoint for a file that is compressed, encrypted, a folder or there twice, for
    bytes that belong to no file, and for whatever else two readers could understand in two ways.
    """
    count, nbytes, offset = _locate_directory(window)
    if not 0 < count <= MAX_FILES:
        raise window.refusal(f"it holds {count} files")
    raw = window.bytes_at(offset, nbytes)
    members: dict[str, ZipMember] = {}
    folders, folded = set(), set()
    position = 0
    for _ in range(count):
        member, position = _read_entry(window, raw, position)
        folder, _, name = member.full_name.decode("utf-8", "replace").partition("/")
        folders.add(folder)
        if not name or name.endswith("/") or name.casefold() in folded:
            raise window.refusal(f"{quoted(name)} in it is a folder, or there twice")
        folded.add(name.casefold())
        members[name] = member
    if position != nbytes:
        raise window.refusal("its directory has another size than its files fill")
    if len(folders) > 1:
        raise window.refusal(f"its files are in {len(folders)} folders, not in one")
    _check_gapless(window, members.values(), offset)
    return members


def _read_entry(window: Window, raw: bytes, position: int) -> tuple[ZipMember, int]:
    """Return the file that an entry of the directory describes, and where the entry ends."""
    if len(raw) - position < ENTRY.size:
        raise window.refusal("its directory ends too early")
    fields = ENTRY.unpack_from(raw, position)
    magic, _, _, flags, method, _, _, checksum, packed, size = fields[:10]
    name_bytes, extra_bytes, comment_bytes, disk, _, attributes, header_at = fields[10:]
    name_at = position + ENTRY.size
    extra_at = name_at + name_bytes
    full_name = raw[name_at:extra_at]
    if magic != ENTRY_MAGIC or method or packed != size or flags & ~_PLAIN_FLAGS:
        name = quoted(full_name.decode("utf-8", "replace"))
        raise window.refusal(f"{name} in it is compressed or encrypted")
    if disk or attributes & _IS_FOLDER:
        name = quoted(full_name.decode("utf-8", "replace"))
        raise window.refusal(f"{name} in it is a folder, or in another archive")
    extra = raw[extra_at : extra_at + extra_bytes]
    place = _resolve_zip64(window, header_at, size, extra)
    end = extra_at + extra_bytes + comment_bytes
    return ZipMember(full_name, flags, checksum, *place), end


def _check_gapless(window: Window, members: Iterable[ZipMember], directory_at: int) -> None:
    """Refuse an archive unless its files follow one another up to the directory."""
    ordered = sorted(members, key=lambda member: member.header_at)
    starts = [*(member.header_at for member in ordered[1:]), directory_at]
    if ordered[0].header_at != 0:
        raise window.refusal("it does not begin with a file")
    for member, following in zip(ordered, starts, strict=True):
        end = member.end(window, following)
        if end != following:
            raise window.refusal(f"a file in it ends at byte {end}, the next begins at {following}")


def _locate_directory(window: Window) -> tuple[int, int, int]:
    """Return the number of files, and size and offset of the directory, from the end records."""
    if window.nbytes < END.size:
        raise window.refusal(f"{window.nbytes} bytes are too few")
    end_at = window.nbytes - END.size
    end = END.unpack(window.bytes_at(end_at, END.size))
    if end[0] != END_MAGIC or end[7]:
        raise window.refusal("no zip directory at its end: cut short, or another format")
    narrow = (*end[1:7],)
    if end_at >= ZIP64_LOCATOR.size:
        locator_at = end_at - ZIP64_LOCATOR.size
        locator = ZIP64_LOCATOR.unpack(window.bytes_at(locator_at, ZIP64_LOCATOR.size))
        if locator[0] == ZIP64_LOCATOR_MAGIC:
            return _locate_wide(window, locator_at, locator, narrow)
    if narrow[:2] != (0, 0) or narrow[2] != narrow[3] or narrow[4] + narrow[5] != end_at:
        raise window.refusal("its end records contradict one another")
    return narrow[3], narrow[4], narrow[5]


def _locate_wide(
    window: Window, locator_at: int, locator: tuple[Any, ...], narrow: tuple[int, ...]
) -> tuple[int, int, int]:
    """Return the same from the 64-bit end record, with which all other records have to agree."""
    wide_at = locator_at - ZIP64_END.size
    wide = ZIP64_END.unpack(window.bytes_at(wide_at, ZIP64_END.size))
    numbers = wide[4:]
    bounds = (0xFFFF,) * 4 + (IN_ZIP64,) * 2
    agree = (
        wide[:2] == (ZIP64_END_MAGIC, ZIP64_END.size - 12)
        and locator[1:] == (0, wide_at, 1)
        and numbers[:2] == (0, 0)
        and numbers[2] == numbers[3]
        and numbers[4] + numbers[5] == wide_at
        and all(n in (w, b) for n, w, b in zip(narrow, numbers, bounds, strict=True))
    )
    if not agree:
        raise window.refusal("its end records contradict one another")
    return numbers[3], numbers[4], numbers[5]


def _resolve_zip64(window: Window, header_at: int, size: int, extra: bytes) -> tuple[int, int]:
    """Return offset and size, either of which may be in the zip64 field of the extra fields.

    The field has, in this order and only if they do not fit 32 bits: the size, the size once more
    as it is stored, the offset.
    """
    large_size, large_offset = size == IN_ZIP64, header_at == IN_ZIP64
    if not large_size and not large_offset:
        return header_at, size
    numbers = _zip64_numbers(extra)
    needed = 2 * large_size + large_offset
    if len(numbers) < needed or (large_size and numbers[0] != numbers[1]):
        raise window.refusal("its directory lacks a 64-bit size")
    return (
        numbers[needed - 1] if large_offset else header_at,
        numbers[0] if large_size else size,
    )


def _zip64_numbers(extra: bytes) -> list[int]:
    """Return the numbers in the zip64 field among the extra fields of an entry."""
    position = 0
    while position + 4 <= len(extra):
        kind, nbytes = struct.unpack_from("<HH", extra, position)
        values = extra[position + 4 : position + 4 + nbytes]
        if position + 4 + nbytes > len(extra):
            break
        if kind == ZIP64_KIND:
            return [n for (n,) in struct.iter_unpack("<Q", values[: len(values) // 8 * 8])]
        position += 4 + nbytes
    return []

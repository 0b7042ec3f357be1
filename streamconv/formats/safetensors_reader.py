"""Reads and checks the header of a safetensors file.

Every rule of the format is checked, and what two readers could understand differently is refused:
a name that occurs twice, an unknown field, anything before the opening brace.
"""

import functools
import math
import operator
import re
import sys
from collections.abc import Iterable, Mapping

from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.safetensors import (
    DTYPE_BITS,
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    METADATA,
    Entry,
    Header,
)
from streamconv.formats.safetensors_entry import InvalidEntry, read_entry, shape_of
from streamconv.formats.strict_json import Cursor, as_bad_checkpoint

MAX_METADATA = 2**16
"""Names in `__metadata__`. Writers store a handful; a header has room for ten million."""

_SIZE = "(?:0|[1-9][0-9]{0,17})"
_SIZES = re.compile(rf"(?:{_SIZE}(?:,{_SIZE}){{0,7}})?")
_USUAL = (
    r'"([^"\\\x00-\x1f]*)":\{"dtype":"([A-Z0-9_]+)","shape":\[([0-9,]*)\],'
    rf'"data_offsets":\[({_SIZE}),({_SIZE})\]\}}'
)
"""An entry as nearly all writers write it: reading it takes a tenth of the time."""
_FIRST_ENTRY, _NEXT_ENTRY = re.compile(r"\{" + _USUAL), re.compile("," + _USUAL)
_BY_BYTES = operator.attrgetter("begin", "end")
_SPACE = " \t\n\r"


def is_safetensors(first: bytes) -> bool:
    """Return True if a file that begins with these 9 bytes may be a safetensors file."""
    length = int.from_bytes(first[:LENGTH_BYTES], "little")
    return length <= MAX_HEADER_BYTES and first[LENGTH_BYTES:] == b"{"


def header_length(first: bytes, file_size: int, label: str) -> int:
    """Return the length in bytes of a file's header, from the first 8 bytes of the file.

    Args:
        first: The first 8 bytes, or all of a shorter file.
        file_size: Size of the file in bytes.
        label: Names the file in errors.

    Raises:
        BadCheckpoint: The header is longer than the file, or than the format allows.
    """
    if len(first) < LENGTH_BYTES:
        raise BadCheckpoint(
            f"cannot read {label}: {file_size} bytes are too few for a safetensors file"
        )
    length = int.from_bytes(first, "little")
    if length > MAX_HEADER_BYTES or length + LENGTH_BYTES > file_size:
        raise BadCheckpoint(
            f"cannot read {label}: the first 8 bytes announce a header of {length} bytes, "
            f"the file has {file_size}, the format allows {MAX_HEADER_BYTES}",
            "check that it is a whole safetensors file, not a Git LFS pointer or a web page",
        )
    return length


def parse_header(raw: bytes, file_size: int, label: str) -> Header:
    """Parse a header, and check every rule of the format.

    Args:
        raw: The JSON of the header, with its padding.
        file_size: Size of the whole file in bytes.
        label: Names the file in errors.

    Raises:
        BadCheckpoint: The header breaks a rule, or does not fit the file.
    """
    if raw[:1] != b"{":
        raise BadCheckpoint(f"cannot read {label}: the header does not begin with a brace")
    with as_bad_checkpoint(label):
        text = raw.decode("utf-8")
        entries, metadata = _usual_entries(text, label) or _any_entries(text, label)
    data_start = LENGTH_BYTES + len(raw)
    _check_offsets(entries, file_size - data_start, data_start, label)
    return Header(tuple(entries), metadata, data_start)


def _usual_entries(text: str, label: str) -> tuple[list[Entry], Mapping[str, str]] | None:
    """Return entries and metadata of a header as nearly all writers write it.

    Returns None for any other header, also for one that breaks a rule: `_any_entries` names it.
    """
    metadata: Mapping[str, str] = {}
    usual = _FIRST_ENTRY.match(text)
    if text.startswith(f'{{"{METADATA}":'):
        cursor = Cursor(text)
        next(cursor.members())
        metadata = _parse_metadata(cursor, label)
        usual = _NEXT_ENTRY.match(text, cursor.position)
    entries, names = list[Entry](), set[str]()
    position, last, at, in_order = 0, "0", 0, True
    while usual is not None:
        name, dtype, sizes, begin, end = usual.groups()
        if begin != last:
            in_order, position = False, int(begin)
        kind, next_position = _kind(dtype, sizes), int(end)
        if kind is None or next_position - position != kind[2]:
            return None
        names.add(name)
        entries.append(tuple.__new__(Entry, (name, kind[0], kind[1], position, next_position)))
        position, last, at = next_position, end, usual.end()
        usual = _NEXT_ENTRY.match(text, at)
    if not entries or text[at : at + 1] != "}" or text[at + 1 :].strip(_SPACE):
        return None
    if len(names) < len(entries) or METADATA in names:
        return None
    if not in_order:
        entries.sort(key=_BY_BYTES)
    return entries, metadata


@functools.lru_cache(maxsize=1024)
def _kind(dtype: str, sizes: str) -> tuple[str, tuple[int, ...], int] | None:
    """Return dtype, shape and bytes of a tensor. None if they make no sense."""
    if dtype not in DTYPE_BITS or _SIZES.fullmatch(sizes) is None:
        return None
    shape = shape_of(sizes)
    nbytes, rest = divmod(math.prod(shape) * DTYPE_BITS[dtype], 8)
    return None if rest else (sys.intern(dtype), shape, nbytes)


def _any_entries(text: str, label: str) -> tuple[list[Entry], Mapping[str, str]]:
    """Return entries and metadata of a header, one member after another."""
    metadata: Mapping[str, str] = {}
    entries = []
    cursor = Cursor(text)
    for name in cursor.members():
        if name == METADATA:
            metadata = _parse_metadata(cursor, label)
            continue
        try:
            entries.append(read_entry(name, cursor))
        except InvalidEntry as error:
            raise BadCheckpoint(
                f"cannot read {label}: tensor {quoted(name)}: {quoted(str(error))}"
            ) from None
    cursor.end()
    entries.sort(key=_BY_BYTES)
    return entries, metadata


def _parse_metadata(cursor: Cursor, label: str) -> dict[str, str]:
    found: dict[str, str] = {}
    not_text = BadCheckpoint(f"cannot read {label}: __metadata__ has to map text to text")
    if cursor.next() != "{":
        raise not_text
    for name in cursor.members():
        if cursor.next() != '"':
            raise not_text
        if len(found) == MAX_METADATA:
            raise BadCheckpoint(
                f"cannot read {label}: __metadata__ has more than {MAX_METADATA:,} names"
            )
        found[name] = cursor.value()
    return found


def _check_offsets(entries: Iterable[Entry], nbytes: int, data_start: int, label: str) -> None:
    """Refuse entries, sorted by their bytes, that do not fill `nbytes` of data exactly."""
    position = 0
    for entry in entries:
        if entry.begin != position:
            raise BadCheckpoint(
                f"cannot read {label}: tensor {quoted(entry.name)} begins at byte {entry.begin} of "
                f"the data, the one before it ends at {position}"
            )
        position = entry.end
    described, there = data_start + position, data_start + nbytes
    if described > there:
        raise BadCheckpoint(
            f"cannot read {label}: the file is cut short: its header describes {described} bytes, "
            f"it has {there}"
        )
    if described < there:
        raise BadCheckpoint(
            f"cannot read {label}: the file is too long: its header describes {described} bytes, "
            f"it has {there}"
        )

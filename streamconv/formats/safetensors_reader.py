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
from typing import Any

from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.safetensors import (
    DTYPE_BITS,
    LENGTH_BYTES,
    MAX_DIMS,
    MAX_HEADER_BYTES,
    MAX_SIZE,
    METADATA,
    Entry,
    Header,
)
from streamconv.formats.strict_json import Cursor, as_bad_checkpoint

MAX_METADATA = 2**16
"""Names in `__metadata__`. Writers store a handful; a header has room for ten million."""
FIELDS = {"dtype", "shape", "data_offsets"}

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
    shape = _shape(sizes)
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
            entries.append(_parse_entry(name, _read_fields(cursor)))
        except _InvalidEntry as error:
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


class _InvalidEntry(Exception):
    """A rule of the format that a tensor's entry breaks."""


def _read_fields(cursor: Cursor) -> Any:
    """Return the value of an entry. One that is too long is refused before it is parsed."""
    try:
        return cursor.small_value()
    except OverflowError as error:
        raise _InvalidEntry(
            f"{error} ... is more than a dtype, a shape and data_offsets take"
        ) from None


def _parse_entry(name: str, fields: Any) -> Entry:
    """Build the entry of a tensor from its value in the header.

    Raises _InvalidEntry if a field is missing, unknown or wrong, or the size contradicts the shape.
    """
    if not isinstance(fields, dict) or fields.keys() != FIELDS:
        raise _InvalidEntry("not an object of dtype, shape and data_offsets alone")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str):
        raise _InvalidEntry(f"dtype {dtype} is not one of the format's")
    if not _are_sizes(shape) or len(shape) > MAX_DIMS:
        raise _InvalidEntry(f"shape {str(shape)[:80]} is not a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise _InvalidEntry(f"data_offsets {str(offsets)[:80]} are not a begin and an end")
    return _entry(name, dtype, _shape(",".join(map(str, shape))), *offsets)


def _entry(name: str, dtype: str, shape: tuple[int, ...], begin: int, end: int) -> Entry:
    """Build an entry from fields of the right types. Raises _InvalidEntry if they make no sense."""
    bits = DTYPE_BITS.get(dtype)
    if bits is None:
        raise _InvalidEntry(f"dtype {dtype} is not one of the format's")
    if end < begin:
        raise _InvalidEntry(f"data_offsets {[begin, end]} are not a begin and an end")
    expected, span = math.prod(shape) * bits, 8 * (end - begin)
    if expected != span:
        raise _InvalidEntry(
            f"{dtype} {[*shape]} takes {expected} bits, its data_offsets span {span}"
        )
    return Entry(name, sys.intern(dtype), shape, begin, end)


@functools.lru_cache(maxsize=1024)
def _shape(sizes: str) -> tuple[int, ...]:
    """Return the shape of sizes with commas between them. Equal ones share one object."""
    return tuple(map(int, sizes.split(","))) if sizes else ()


def _are_sizes(values: Any) -> bool:
    """Return True for a list of integers that fit a file. JSON's `true` and `2.0` do not count."""
    if not isinstance(values, list):
        return False
    for value in values:  # noqa: SIM110 - a header has a million of these
        if type(value) is not int or not 0 <= value < MAX_SIZE:
            return False
    return True


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

"""The safetensors format: 8 bytes of header length, a JSON header, the tensors' bytes. Pure.

    u64 little-endian N | N bytes of JSON, padded with spaces | data
    {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, ...,
     "__metadata__": {"text": "text"}}

Offsets count from the start of the data, have no gap and no overlap, and end where the file
ends. Source: https://github.com/huggingface/safetensors, README and `tensor.rs`. Stricter than
the reference reader in what lets two readers see two checkpoints in one file: no name twice, no
unknown field, nothing before the opening brace.
"""

import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.strict_json import Cursor, as_bad_checkpoint

MAX_HEADER_BYTES = 100_000_000
LENGTH_BYTES = 8
MAX_DIMS = 64
MAX_SIZE = 2**63
MAX_METADATA = 2**16
"""Names in `__metadata__`: writers have a handful, and a header has room for ten million."""
FIELDS = {"dtype", "shape", "data_offsets"}

DTYPE_BITS: Mapping[str, int] = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("C64", "F64", "I64", "U64"), 64),
}
"""Width of an element of each dtype of the format."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a header; `begin` and `end` are bytes from the start of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says it holds; entries in the order of their bytes."""

    entries: tuple[Entry, ...]
    metadata: Mapping[str, str]
    data_start: int
    """Bytes from the start of the file to the data."""


def is_safetensors(first: bytes) -> bool:
    """Whether a file that begins with these 9 bytes looks like one of the format."""
    length = int.from_bytes(first[:LENGTH_BYTES], "little")
    return length <= MAX_HEADER_BYTES and first[LENGTH_BYTES:] == b"{"


def header_length(first: bytes, file_size: int, what: str) -> int:
    """Bytes of JSON that a file's first 8 bytes announce, held against the file's size."""
    if len(first) < LENGTH_BYTES:
        raise BadCheckpoint(f"{what}: {file_size} bytes are too few for a safetensors file")
    length = int.from_bytes(first, "little")
    if length > MAX_HEADER_BYTES or length + LENGTH_BYTES > file_size:
        raise BadCheckpoint(
            f"{what}: the first 8 bytes announce a header of {length} bytes, "
            f"the file has {file_size}, the format allows {MAX_HEADER_BYTES}",
            "is it a safetensors file, whole? a Git LFS pointer or a saved web page is not",
        )
    return length


def parse_header(raw: bytes, file_size: int, what: str) -> Header:
    """The header whose JSON is `raw`, every rule of the format checked.

    `what` names the file in errors; `file_size` is in bytes. Raises BadCheckpoint.
    """
    if raw[:1] != b"{":
        raise BadCheckpoint(f"{what}: the header does not begin with a brace")
    metadata: Mapping[str, str] = {}
    entries = []
    shared: dict[object, Any] = {}
    with as_bad_checkpoint(what):
        cursor = Cursor(raw.decode("utf-8"))
        for name in cursor.members():
            if name == "__metadata__":
                metadata = _metadata(cursor, what)
            else:
                entries.append(_entry(name, _field(name, cursor, what), what, shared))
        cursor.end()
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    data_start = LENGTH_BYTES + len(raw)
    position = 0
    for entry in entries:
        if entry.begin != position:
            raise BadCheckpoint(
                f"{what}: tensor {quoted(entry.name)} begins at byte {entry.begin} of the data, "
                f"the one before it ends at {position}"
            )
        position = entry.end
    if data_start + position != file_size:
        fact = "cut short" if data_start + position > file_size else "too long"
        raise BadCheckpoint(
            f"{what}: the file is {fact}: its header describes {data_start + position} bytes, "
            f"it has {file_size}"
        )
    return Header(tuple(entries), metadata, data_start)


def _metadata(cursor: Cursor, what: str) -> dict[str, str]:
    found: dict[str, str] = {}
    refusal = BadCheckpoint(f"{what}: __metadata__ has to map text to text")
    if cursor.next() != "{":
        raise refusal
    for name in cursor.members():
        if cursor.next() != '"':
            raise refusal
        if len(found) == MAX_METADATA:
            raise BadCheckpoint(f"{what}: __metadata__ has more than {MAX_METADATA:,} names")
        found[name] = cursor.value()
    return found


def _field(name: str, cursor: Cursor, what: str) -> Any:
    """What is said of a tensor; refused, where it is long, before it is taken apart."""
    try:
        return cursor.small_value()
    except OverflowError as error:
        fact = f"{error} ... is more than a dtype, a shape and data_offsets take"
        raise _refusal(what, name, fact) from None


def _are_sizes(values: Any) -> bool:
    """Whether `values` is a list of integers that fit a file; JSON's true and 2.0 are none."""
    if not isinstance(values, list):
        return False
    for value in values:  # noqa: SIM110 - a header has a million of these
        if type(value) is not int or not 0 <= value < MAX_SIZE:
            return False
    return True


def _entry(name: str, field: Any, what: str, shared: dict[object, Any]) -> Entry:
    """A tensor as a header describes it; its shape is one object with the others of that shape."""
    if not isinstance(field, dict) or field.keys() != FIELDS:
        raise _refusal(what, name, "not an object of dtype, shape and data_offsets alone")
    dtype, shape, offsets = field["dtype"], field["shape"], field["data_offsets"]
    bits = DTYPE_BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise _refusal(what, name, f"dtype {dtype} is not one of the format's")
    if not _are_sizes(shape) or len(shape) > MAX_DIMS:
        raise _refusal(what, name, f"shape {str(shape)[:80]} is not a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[1] < offsets[0]:
        raise _refusal(what, name, f"data_offsets {str(offsets)[:80]} are not a begin and an end")
    need, span = math.prod(shape) * bits, 8 * (offsets[1] - offsets[0])
    if need != span:
        raise _refusal(
            what, name, f"{dtype} {shape} takes {need} bits, its data_offsets span {span}"
        )
    shape = tuple(shape)
    return Entry(name, sys.intern(dtype), shared.setdefault(shape, shape), offsets[0], offsets[1])


def _refusal(what: str, name: str, fact: str) -> BadCheckpoint:
    return BadCheckpoint(f"{what}: tensor {quoted(name)}: {quoted(fact)}")


def build_header(
    entries: Iterable[Entry], metadata: Mapping[str, str], alignment: int = LENGTH_BYTES
) -> bytes:
    """A file's bytes up to its data, padded with spaces to a multiple of `alignment` bytes."""
    fields: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for entry in entries:
        fields[entry.name] = {
            "dtype": entry.dtype,
            "shape": entry.shape,
            "data_offsets": (entry.begin, entry.end),
        }
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    padded = -(-(LENGTH_BYTES + len(text)) // alignment) * alignment - LENGTH_BYTES
    return padded.to_bytes(LENGTH_BYTES, "little") + text.ljust(padded)

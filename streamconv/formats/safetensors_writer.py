"""Writes the header of a safetensors file."""

import json
from collections.abc import Iterable, Iterator, Mapping
from json.encoder import encode_basestring

from streamconv.formats.safetensors import LENGTH_BYTES, METADATA, Entry

_ROWS = 500
"""Entries in a part of a header."""


def build_header(
    entries: Iterable[Entry], metadata: Mapping[str, str], alignment: int = LENGTH_BYTES
) -> bytes:
    """Build a file's bytes up to its data: the length and the header.

    Args:
        entries: The tensors, in the order in which the header lists them.
        metadata: The `__metadata__`; left out if empty.
        alignment: The data starts at a multiple of this many bytes, after spaces.
    """
    text = b"".join(header_text(entries, metadata))
    padded = header_bytes(len(text), alignment) - LENGTH_BYTES
    return padded.to_bytes(LENGTH_BYTES, "little") + text.ljust(padded)


def header_bytes(text_bytes: int, alignment: int) -> int:
    """Return the bytes up to the data: the length, `text_bytes` of JSON, and spaces."""
    return -(-(LENGTH_BYTES + text_bytes) // alignment) * alignment


def header_text(entries: Iterable[Entry], metadata: Mapping[str, str]) -> Iterator[bytes]:
    """Yield the JSON of a header in parts of many entries each, as all of it may be large.

    Args:
        entries: The tensors, in the order in which the header lists them.
        metadata: The `__metadata__`; left out if empty.
    """
    rows: list[str] = []
    if metadata:
        text = json.dumps(metadata, ensure_ascii=False, separators=(",", ":"))
        rows.append(f'"{METADATA}":{text}')
    yield b"{"
    comma = ""
    for entry in entries:
        shape = ",".join(map(str, entry.shape))
        rows.append(
            f'{encode_basestring(entry.name)}:{{"dtype":"{entry.dtype}","shape":[{shape}],'
            f'"data_offsets":[{entry.begin},{entry.end}]}}'
        )
        if len(rows) == _ROWS:
            yield f"{comma}{','.join(rows)}".encode()
            rows.clear()
            comma = ","
    if rows:
        yield f"{comma}{','.join(rows)}".encode()
    yield b"}"

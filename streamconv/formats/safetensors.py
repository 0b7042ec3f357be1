"""The safetensors format: a length, a JSON header, the bytes of the tensors.

    8 bytes     N, the length of the header, little-endian
    N bytes     the header: JSON, padded with spaces
    the rest    data: the tensors' bytes, one after another

    {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, ...,
     "__metadata__": {"text": "text"}}

`data_offsets` count bytes from the start of the data. They leave no gap, do not overlap, and the
last one ends where the file ends. Source: https://github.com/huggingface/safetensors, README and
`tensor.rs`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

MAX_HEADER_BYTES = 100_000_000
LENGTH_BYTES = 8
METADATA = "__metadata__"
"""The one name in a header that is not the name of a tensor."""
MAX_DIMS = 64
MAX_SIZE = 2**63

DTYPE_BITS: Mapping[str, int] = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("C64", "F64", "I64", "U64"), 64),
}
"""Width in bits of an element of each dtype of the format."""


class Entry(NamedTuple):
    """One tensor of a header. As a tuple it is made in a third of the time of a dataclass."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    """Bytes from the start of the data to the first of the tensor's."""
    end: int
    """Bytes from the start of the data to the one after the tensor's last."""


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a file; entries in the order of their bytes."""

    entries: tuple[Entry, ...]
    metadata: Mapping[str, str]
    data_start: int
    """Bytes from the start of the file to the data."""

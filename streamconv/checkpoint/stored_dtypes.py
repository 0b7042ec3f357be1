"""The dtypes of tensors: which tensors hold codes, and which dtype most of the others have."""

from collections.abc import Iterable

from streamconv.catalog.companions import is_companion
from streamconv.checkpoint.casting import DTYPES
from streamconv.checkpoint.types import TensorInfo

_CODES = frozenset(
    {
        *("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"),
        *("F4", "F6_E2M3", "F6_E3M2"),
    }
)
"""Dtypes that only codes have."""
_WORDS = frozenset({"I8", "U8", "I32"})
"""Dtypes that codes are packed into; other tensors may have them, too."""


def is_quantized(info: TensorInfo) -> bool:
    """Return True if a tensor holds codes, which mean something only with their scales."""
    if info.dtype in _CODES:
        return True
    is_packed = info.dtype != "I32" or is_companion(info.name)
    return info.dtype in _WORDS and len(info.shape) > 1 and is_packed


def main_dtype(infos: Iterable[TensorInfo]) -> str | None:
    """Return the dtype that most elements have, of those that a cast can make; None if none has."""
    elements = dict.fromkeys(DTYPES.values(), 0)
    for info in infos:
        if info.dtype in elements:
            elements[info.dtype] += info.elements
    largest = max(elements, key=lambda dtype: elements[dtype])
    return largest if elements[largest] else None

"""The casts of a plan in summary: names and counts of tensors."""

from collections.abc import Iterable
from typing import Any

from streamconv.catalog.families import Family
from streamconv.checkpoint.casting import FLOATS, Casting
from streamconv.checkpoint.protected_tensors import protected_kind
from streamconv.checkpoint.tensor_names import pattern_of
from streamconv.checkpoint.types import TensorInfo


def cast_rows(inputs: Iterable[TensorInfo]) -> list[dict[str, Any]]:
    """List the casts among `inputs`; tensors whose names differ only in numbers share a row."""
    rows: dict[tuple[str, str, str, bool, bool, str], int] = {}
    for info in inputs:
        if info.cast is not None and not info.cast.is_view:
            decoding, encoding = info.cast.decoding, info.cast.encoding
            name = encoding.name if encoding else decoding.format if decoding else ""
            stored = info.cast.stored.dtype
            kinds = (decoding is not None, encoding is not None)
            key = (pattern_of(info.name), stored, info.dtype, *kinds, name)
            rows[key] = rows.get(key, 0) + 1
    return [
        {
            "tensors": tensors,
            "from": stored,
            "to": dtype,
            "scaled": is_scaled,
            "quantized": is_quantized,
            "format": name or None,
            "count": count,
        }
        for (tensors, stored, dtype, is_scaled, is_quantized, name), count in sorted(rows.items())
    ]


def protected_names(
    inputs: Iterable[TensorInfo], casting: Casting, family: Family | None = None
) -> dict[str, list[str]]:
    """Return the tensors that are protected from a cast, by kind: `router`, `norm`, `scale`."""
    names: dict[str, list[str]] = {}
    for info in inputs if casting.dtype else ():
        if info.cast is None and info.dtype in FLOATS and info.dtype != casting.dtype:
            names.setdefault(protected_kind(info.name, family) or "other", []).append(info.name)
    return names

"""The casts of a plan as people and programs read them: counts, and notes about config.json."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from streamconv.catalog.families import Family
from streamconv.checkpoint.casting import FLOATS, Casting, protected_kind
from streamconv.checkpoint.tensor_names import pattern_of
from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import quoted

CONFIG_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
"""What config.json calls the dtypes that a cast can have as its result."""


def cast_rows(inputs: Iterable[TensorInfo]) -> list[dict[str, Any]]:
    """List the casts among `inputs`; tensors whose names differ only in numbers share a row."""
    rows: dict[tuple[str, str, str, bool, str], int] = {}
    for info in inputs:
        if info.cast is not None:
            decoding = info.cast.decoding
            name = decoding.format if decoding else ""
            stored = info.cast.stored.dtype
            key = (pattern_of(info.name), stored, info.dtype, decoding is not None, name)
            rows[key] = rows.get(key, 0) + 1
    return [
        {
            "tensors": tensors,
            "from": stored,
            "to": dtype,
            "scaled": is_scaled,
            "format": name or None,
            "count": count,
        }
        for (tensors, stored, dtype, is_scaled, name), count in sorted(rows.items())
    ]


def protected_rows(
    inputs: Iterable[TensorInfo], casting: Casting, family: Family | None = None
) -> dict[str, int]:
    """Count the tensors that are protected from a cast, by kind: `router`, `norm`, `scale`."""
    counts: dict[str, int] = {}
    for info in inputs if casting.dtype else ():
        if info.cast is None and info.dtype in FLOATS and info.dtype != casting.dtype:
            kind = protected_kind(info.name, family) or "other"
            counts[kind] = counts.get(kind, 0) + 1
    return counts


def config_notes(config: Mapping[str, Any], casting: Casting) -> Iterator[str]:
    """Yield a note for each statement that is outdated in config.json, which is copied as it is."""
    if casting.dequantize is not None and "quantization_config" in config:
        yield (
            "config.json is copied unchanged and its quantization_config still describes quantized "
            "weights: remove it before you load the result"
        )
    declared = config.get("dtype", config.get("torch_dtype"))
    if casting.dtype is None or not isinstance(declared, str):
        return
    dtype = CONFIG_DTYPES[casting.dtype]
    if declared != dtype:
        yield (
            f"config.json is copied unchanged and still says dtype {quoted(declared)}: loaders "
            f"that use it will not load {dtype}"
        )

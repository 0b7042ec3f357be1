"""Encodings, the ways in which `--quantize` stores weights: rows of `data/quantization.toml`."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from streamconv.catalog.frozen_map import FrozenMap
from streamconv.catalog.toml_tables import read_row_names, read_table
from streamconv.errors import UsageError, quoted


@dataclass(frozen=True, slots=True)
class StoredPart:
    """One of the tensors that a quantized weight consists of."""

    role: str
    """`codes`, `scale` or `shape`."""
    word: str
    """The word that replaces `weight` in its name."""
    dtype: str
    """Its dtype; empty for the dtype of the weight."""


@dataclass(frozen=True, eq=False)
class EncodingRow:
    """A way to store weights, with the scales that `--scale` chose."""

    name: str
    says: str
    """Its description in the plan."""
    format: str
    """Name of the number format."""
    block: tuple[int, int]
    """Rows and columns that share a scale; 0 is all of them."""
    is_whole: bool
    """True if the columns have to be a whole number of blocks."""
    numbers: str
    """The numbers that codes stand for: `e4m3`, `e2m1` or `int4`."""
    most: float
    """The scale of a block is its largest magnitude, divided by this."""
    powers: str
    """`above` or `near` if scales are powers of two, else empty."""
    zero: float | None
    """The scale of a block of zeros; None for the epsilon of the arithmetic."""
    arithmetic: str
    """The dtype in which quotients and scales are computed; empty for the dtype of the weight."""
    parts: tuple[StoredPart, ...]
    """Codes first."""
    config: Mapping[str, Any]
    """The description of it in config.json, without the list of modules that are not quantized."""


@functools.cache
def encoding_names() -> tuple[str, ...]:
    """Return the values of `--quantize`. Each command line asks for them when it starts."""
    return read_row_names("quantization.toml", "encodings")


@functools.cache
def encoding_row(name: str, scale: str | None = None) -> EncodingRow:
    """Return the encoding that two options choose.

    Args:
        name: The value of `--quantize`.
        scale: The value of `--scale`; None for the default.

    Raises:
        UsageError: The encoding is unknown, or it has no such scales.
    """
    if name not in _rows():
        raise UsageError(
            f"cannot quantize to {quoted(repr(name))}: no such format",
            f"choose from {', '.join(encoding_names())}",
        )
    row = dict(_rows()[name])
    options = row.get("options", {})
    if scale is not None and scale not in options:
        known = f"choose from {', '.join(options)}" if options else "leave out --scale"
        raise UsageError(
            f"cannot give {name} the scales {quoted(repr(scale))}: it has no such scales", known
        )
    chosen = options[scale] if scale is not None else {}
    config = {**row["config"], **chosen.get("config", {})}
    row |= chosen
    return EncodingRow(
        name=name,
        says=row["says"],
        format=row["format"],
        block=(row["block"][0], row["block"][1]),
        is_whole=row.get("whole", False),
        numbers=row["numbers"],
        most=float(row["most"]),
        powers=row.get("powers", ""),
        zero=row.get("zero"),
        arithmetic=row.get("arithmetic", ""),
        parts=tuple(
            StoredPart(role, row[role]["word"], row[role]["dtype"])
            for role in ("codes", "scale", "shape")
            if role in row
        ),
        config=FrozenMap(config),
    )


@functools.cache
def unquantized_names() -> Mapping[str, tuple[str, ...]]:
    """Return the patterns of matrices that `--quantize` leaves as they are, by kind."""
    table = read_table("quantization.toml")["unquantized"]
    return MappingProxyType({kind: tuple(patterns) for kind, patterns in table.items()})


def _rows() -> Mapping[str, Any]:
    rows: Mapping[str, Any] = read_table("quantization.toml")["encodings"]
    return rows

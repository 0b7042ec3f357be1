"""Which tensors are cast or dequantized, and from what.

A cast happens on reading: a checkpoint under a casting is the same checkpoint with other dtypes,
and everything else is planned as if its tensors had been stored so. Casts therefore combine
with any rearrangement, and bytes, shards and memory follow. The names that are protected from
casts are rows of `data/casts.toml`.
"""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streamconv.catalog.encodings import encoding_row
from streamconv.catalog.families import Family
from streamconv.catalog.routers import router_biases, router_weights
from streamconv.catalog.toml_tables import read_table
from streamconv.checkpoint.encoding import KEPT_SCALES_BYTES, encoding_bytes, view_bytes
from streamconv.checkpoint.types import Cast, TensorInfo
from streamconv.errors import BadCheckpoint, UsageError

DTYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
"""Dtypes that a cast can have as its result, by the values of `--dtype`."""
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Dtypes that `--dtype` casts. Narrower floats mean something only together with their scales."""

KEPT_IN_FP32 = "fp32 weight"
"""The kind of other tensors that transformers keeps in fp32 in a model of another dtype."""

PORTION_BYTES = 2**20
"""Bytes read at once of a tensor that becomes narrower, which needs a buffer of its own."""
TABLE_BYTES = 2**19
"""Bytes of the lookup tables of a cast from one dtype to another."""
CHUNKS_BYTES = 3 * 2**18
"""Bytes of the chunks of such a cast, which pass through the processor's cache."""
CAST_RATIO = 8
"""Bytes that such a cast takes for each byte of a tensor that is smaller than a portion."""
SCRATCH_BYTES = 3 * 2**20
"""Further bytes of a worker that dequantizes or quantizes: tiles in the cache, lookup tables."""
ENCODED_AGAIN_BYTES = 2**21
"""Further bytes of a verification for a weight that it quantizes again."""


@dataclass(frozen=True, slots=True)
class Casting:
    """The casts that were asked for; by default none."""

    dtype: str | None = None
    """Dtype of the result for floating-point tensors, as safetensors names it, such as `BF16`."""
    dequantize: str | None = None
    """Dtype of the result for quantized weights."""
    everything: bool = False
    """True if routers, norms and what transformers keeps in fp32 are cast as well."""
    only: tuple[str, ...] = ()
    """Weights or number formats that the casts are limited to, by name with * for any text."""
    skip: tuple[str, ...] = ()
    """Weights or number formats that stay as they are, by name with * for any text."""
    quantize: str | None = None
    """Name of the encoding that weights are quantized to."""
    scale: str | None = None
    """The value of `--scale`; None for the encoding's default."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields of a manifest."""
        fields = {"dtype": self.dtype, "dequantize": self.dequantize, "all": self.everything}
        chosen: dict[str, Any] = {"only": list(self.only), "except": list(self.skip)}
        chosen |= {"quantize": self.quantize, "scale": self.scale}
        return {**fields, **{key: names for key, names in chosen.items() if names}}

    @classmethod
    def from_json(cls, fields: Any, source: str) -> "Casting":
        """Read what `to_json` returned.

        Args:
            fields: A JSON value, which may be anything; None means no casts.
            source: The file that it is from, for messages.

        Raises:
            BadCheckpoint: It is not a casting, or has a dtype that this release does not know.
        """
        if fields is None:
            return AS_STORED
        if not isinstance(fields, dict):
            fields = {}
        dtype, dequantize, everything = (fields.get(key) for key in ("dtype", "dequantize", "all"))
        only, skip = (fields.get(key, []) for key in ("only", "except"))
        quantize, scale = (fields.get(key) for key in ("quantize", "scale"))
        known = {None, *DTYPES.values()}
        if (
            type(everything) is not bool
            or not _is_encoding(quantize, scale)
            or not all(isinstance(n, str | None) and n in known for n in (dtype, dequantize))
            or not (_are_names(only) and _are_names(skip))
        ):
            raise BadCheckpoint(f"{source}: its casting is not one that this release knows")
        return cls(dtype, dequantize, everything, tuple(only), tuple(skip), quantize, scale)


AS_STORED = Casting()
"""Nothing is cast."""


def parse_casting(
    dtype: str | None,
    dequantize: str | None,
    everything: bool,
    only: Sequence[str] | str = (),
    skip: Sequence[str] | str = (),
    *,
    quantize: str | None = None,
    scale: str | None = None,
) -> Casting:
    """Return the casting for the values of options.

    Args:
        dtype: The value of `--dtype`.
        dequantize: The value of `--dequantize`.
        everything: True for `--cast-all`.
        only: The values of `--only`.
        skip: The values of `--except`.
        quantize: The value of `--quantize`.
        scale: The value of `--scale`.

    Raises:
        UsageError: A dtype or format is unknown, or an option that extends another one is given
            alone.
    """
    only, skip = ((names,) if isinstance(names, str) else tuple(names) for names in (only, skip))
    chooses = "--only" if only else "--except"
    if (only or skip) and dequantize is None and quantize is None:
        raise UsageError(
            f"cannot apply {chooses}: it chooses what --dequantize or --quantize applies to, and "
            "there is neither",
            "add --dequantize or --quantize, or leave it out",
        )
    if (only or skip) and dequantize is not None and quantize is not None:
        raise UsageError(
            f"cannot apply {chooses} to both --dequantize and --quantize: it chooses the weights "
            "of one of them",
            "dequantize first, and quantize the result",
        )
    if scale is not None and quantize is None:
        raise UsageError(
            f"cannot give the scales {scale!r}: they are those of --quantize, and there is none",
            "add --quantize, or leave out --scale",
        )
    if quantize is not None:
        encoding_row(quantize, scale)
    if everything and dtype is None:
        raise UsageError(
            "cannot apply --cast-all: it extends --dtype to routers and norms, and there is no "
            "--dtype",
            "add --dtype, or leave out --cast-all",
        )
    dtypes = _parse_dtype(dtype), _parse_dtype(dequantize)
    return Casting(*dtypes, everything, only, skip, quantize, scale)


def _is_encoding(quantize: Any, scale: Any) -> bool:
    """Return True if these are the name of an encoding and one of its scales, or both None."""
    if not isinstance(quantize, str | None) or not isinstance(scale, str | None):
        return False
    if quantize is None:
        return scale is None
    try:
        encoding_row(quantize, scale)
    except UsageError:
        return False
    return True


def _are_names(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def _parse_dtype(name: str | None) -> str | None:
    if name is None or name in DTYPES:
        return name and DTYPES[name]
    raise UsageError(f"cannot cast to {name!r}: no such dtype", f"choose from {', '.join(DTYPES)}")


def buffer_bytes(inputs: Iterable[TensorInfo], concurrent_inputs: int) -> int:
    """Return the bytes that one worker needs to cast any of `inputs`, in addition to its output.

    `concurrent_inputs` are read at a time. The scales and other companions of each are in memory as
    they are stored. Codes that cannot be read row by row are in memory for one matrix.
    """
    most = 0
    for info in inputs:
        if info.cast is not None:
            needed = SCRATCH_BYTES + PORTION_BYTES
            decoding = info.cast.decoding
            if info.cast.is_of_dtype:
                largest = max(info.nbytes, info.cast.stored.nbytes)
                # a result that is no narrower is made in its own buffer
                portion = PORTION_BYTES if info.nbytes < info.cast.stored.nbytes else 0
                needed = TABLE_BYTES + min(CHUNKS_BYTES + portion, CAST_RATIO * largest)
            if decoding is not None:
                needed += concurrent_inputs * decoding.companion_bytes + decoding.scratch_bytes
            most = max(most, needed + _encoding_bytes(info, info.cast))
    return most


def kept_scales_bytes(inputs: Iterable[TensorInfo]) -> int:
    """Return the bytes of computed scales that all workers together keep until they are written."""
    scales = 0
    for info in inputs:
        encoding = info.cast.encoding if info.cast is not None else None
        if encoding is not None and encoding.role not in ("codes", "shape"):
            scales += info.nbytes
    return min(KEPT_SCALES_BYTES, scales)


def _encoding_bytes(info: TensorInfo, cast: Cast) -> int:
    """Return the bytes that one worker needs to quantize a weight, or to cut it out of a tensor."""
    if cast.encoding is not None:
        own = encoding_bytes(cast.encoding, cast.view, cast.stored.dtype) + ENCODED_AGAIN_BYTES
    else:
        own = view_bytes(cast.view, info.shape, info.dtype)
    return own + (buffer_bytes([cast.stored], 1) if cast.stored.cast else 0)


# --- protected tensors -------------------------------------------------------------------------


def protected_kind(name: str, family: Family | None = None) -> str | None:
    """Return the kind of a tensor that is protected from casts, or None if it is cast.

    Kinds are `router`, `norm`, `scale` and KEPT_IN_FP32.

    Routers are found by the table of routers and by the row of `family`; if the row names none,
    also by the patterns of `casts.toml`. A tensor is looked up under each of its names in the forms
    of `family`: a router's bias is `moe.router_bias` in one and `mlp.gate.e_score_correction_bias`
    in another.
    """
    names = family.names_in_forms(name) if family else frozenset((name,))
    if any(form_name.endswith(_router_ends(family)) for form_name in names):
        return "router"
    fitting = (kind for kind, found in _protected().items() if any(map(found.fullmatch, names)))
    has_routers = family is not None and bool(family.routers)
    kind = next((kind for kind in fitting if not (has_routers and kind == "router")), None)
    return kind or (KEPT_IN_FP32 if _is_kept_in_fp32(names, family) else None)


def _is_kept_in_fp32(names: Iterable[str], family: Family | None) -> bool:
    """Return True if transformers keeps a tensor in fp32, by one of its names."""
    parts = [f".{part}." for part in family.fp32] if family else []
    return any(part in f".{name}." for name in names for part in parts)


def protects_always(kind: str) -> bool:
    """Return True if not even `--cast-all` casts tensors of a kind."""
    return kind in _table()["never"]


def _router_ends(family: Family | None) -> tuple[str, ...]:
    """Return the endings of the names of routers' tensors, by the table and the family's row."""
    own = family.routers if family else ()
    return _general_router_ends() + tuple(f".{name}" for name in own)


@functools.cache
def _general_router_ends() -> tuple[str, ...]:
    """Return the endings of the names of routers' tensors, by the table of routers."""
    return tuple(f".{name}" for name in (*router_weights(), *router_biases()))


@functools.cache
def _protected() -> Mapping[str, re.Pattern[str]]:
    """Return a regular expression for each kind; the kinds that are never cast come first."""
    return {
        kind: re.compile("|".join(map(_expression, globs)), re.S)
        for section in ("never", "keep")
        for kind, globs in _table()[section].items()
    }


def _expression(glob: str) -> str:
    return ".*".join(map(re.escape, glob.split("*")))


@functools.cache
def _table() -> dict[str, Any]:
    return read_table("casts.toml")

"""Which tensors are cast or dequantized, and from what.

A cast is a matter of reading: a checkpoint under a casting is the same checkpoint with other
dtypes, and everything after it is planned as if they had been stored so. Casts therefore combine
with any rearrangement, and bytes, shards and memory follow. The names that are protected from
casts are rows of `data/casts.toml`.
"""

import functools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from streamconv.catalog.families import Family
from streamconv.catalog.toml_tables import read_table
from streamconv.checkpoint.config import block_from_config
from streamconv.checkpoint.types import Cast, Checkpoint, TensorInfo
from streamconv.errors import BadCheckpoint, PlanRefused, UsageError, quoted
from streamconv.formats.safetensors import DTYPE_BITS

DTYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
"""Dtypes that a cast can have as its result, by the values of `--dtype`."""
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Dtypes that `--dtype` casts. Narrower floats mean something only together with their scales."""
FLOATS8 = frozenset({"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})
"""Dtypes that are dequantized."""
SCALES = frozenset({"F32", "BF16", "F16", "F8_E8M0", "U8"})
"""Dtypes of scales; U8 holds the bits of F8_E8M0."""

PORTION_BYTES = 2**20
"""Bytes read at once of a tensor that becomes narrower, which needs a buffer of its own."""
SCRATCH_BYTES = 2**19
"""Bytes that a worker needs in addition if anything is cast: blocks that fit in the cache."""


@dataclass(frozen=True, slots=True)
class Casting:
    """The casts that were asked for; by default none."""

    dtype: str | None = None
    """Dtype of the result for floating tensors, in the words of the format, such as `BF16`."""
    dequantize: str | None = None
    """Dtype of the result for block-scaled weights."""
    everything: bool = False
    """True if routers, their biases and norms are cast as well."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields of a manifest."""
        return {"dtype": self.dtype, "dequantize": self.dequantize, "all": self.everything}

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
        known = {None, *DTYPES.values()}
        if type(everything) is not bool or not all(
            isinstance(name, str | None) and name in known for name in (dtype, dequantize)
        ):
            raise BadCheckpoint(f"{source}: its casting is not one that this release knows")
        return cls(dtype, dequantize, everything)


AS_STORED = Casting()
"""Nothing is cast."""


def parse_casting(dtype: str | None, dequantize: str | None, everything: bool) -> Casting:
    """Return the casting for the values of `--dtype`, `--dequantize` and `--cast-all`.

    Raises UsageError for an unknown dtype, and for `--cast-all` without `--dtype`.
    """
    if everything and dtype is None:
        raise UsageError(
            "cannot apply --cast-all: it extends --dtype to routers and norms, and there is no "
            "--dtype",
            "add --dtype, or leave out --cast-all",
        )
    return Casting(_parse_dtype(dtype), _parse_dtype(dequantize), everything)


def _parse_dtype(name: str | None) -> str | None:
    if name is None or name in DTYPES:
        return name and DTYPES[name]
    raise UsageError(f"cannot cast to {name!r}: no such dtype", f"choose from {', '.join(DTYPES)}")


def cast_checkpoint(
    checkpoint: Checkpoint, casting: Casting, family: Family | None = None
) -> Checkpoint:
    """Return `checkpoint` as if it had been stored in the dtypes that were asked for.

    A tensor that changes has the stored ones in its `cast`. Scales of dequantized weights are no
    tensors of the result. A tensor is protected from casts by any of the names that it has in the
    forms of its `family`.

    Raises:
        PlanRefused: There is nothing to dequantize, or a weight that cannot be dequantized.
        BadCheckpoint: Scales are missing, left over, or do not fit their weight.
    """
    if casting == AS_STORED:
        return checkpoint
    tensors = dict(checkpoint.tensors)
    if casting.dequantize is not None:
        tensors = _dequantize(checkpoint, casting.dequantize)
    if casting.dtype is not None:
        tensors = {
            name: _cast(info, Cast(info), casting.dtype)
            if _is_cast(info, casting, family)
            else info
            for name, info in tensors.items()
        }
    return replace(checkpoint, tensors=tensors)


def buffer_bytes(inputs: Iterable[TensorInfo], concurrent_inputs: int) -> int:
    """Return the bytes that one worker needs to cast any of `inputs`, in addition to its output.

    `concurrent_inputs` are read at a time. The scales of each are held as 64-bit numbers.
    """
    most = 0
    for info in inputs:
        if info.cast is not None:
            scales = math.prod(info.cast.scales.shape) if info.cast.scales else 0
            most = max(most, SCRATCH_BYTES + PORTION_BYTES + concurrent_inputs * scales * 8)
    return most


def _cast(info: TensorInfo, cast: Cast, dtype: str) -> TensorInfo:
    nbytes = math.prod(info.shape) * DTYPE_BITS[dtype] // 8
    return replace(info, dtype=dtype, nbytes=nbytes, cast=cast)


def _is_cast(info: TensorInfo, casting: Casting, family: Family | None) -> bool:
    """Return True if `--dtype` changes a tensor."""
    if info.cast is not None or info.dtype not in FLOATS or info.dtype == casting.dtype:
        return False
    protected = protected_kind(info.name, family)
    return protected is None or (casting.everything and protected not in _table()["never"])


# --- protected tensors -------------------------------------------------------------------------


def protected_kind(name: str, family: Family | None = None) -> str | None:
    """Return `router`, `norm` or `scale` if that protects the tensor from casts, else None.

    Every name counts that the tensor has in a form of `family`: a router's bias is called
    `moe.router_bias` in one and `mlp.gate.e_score_correction_bias` in another.
    """
    names = family.names_in_forms(name) if family else {name}
    kinds = _protected().items()
    return next((kind for kind, found in kinds if any(map(found.fullmatch, names))), None)


@functools.cache
def _protected() -> Mapping[str, re.Pattern[str]]:
    """Return the expression that finds the names of each kind; those that are never cast first."""
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


# --- block-scaled weights ----------------------------------------------------------------------


def _dequantize(checkpoint: Checkpoint, dtype: str) -> dict[str, TensorInfo]:
    """Return the tensors with every scaled weight in `dtype`, and without the scales."""
    suffix = _table()["scaled"]["suffix"]
    declared = block_from_config(checkpoint.config)
    tensors = checkpoint.tensors
    scales = {name for name in tensors if name.endswith(suffix)}
    if not scales:
        raise PlanRefused(
            f"cannot dequantize {checkpoint.location}: no tensor's name ends in {suffix}",
            "leave out --dequantize, which is for block-scaled FP8 only",
        )
    found = {}
    for name, info in tensors.items():
        if name in scales:
            _check_weight(info, tensors.get(name.removesuffix(suffix)))
        elif name + suffix in scales:
            scale = tensors[name + suffix]
            found[name] = _cast(info, Cast(info, scale, _block(info, scale, declared)), dtype)
        elif info.dtype in FLOATS8:
            raise BadCheckpoint(
                f"cannot dequantize tensor {quoted(name)}: it is {info.dtype}, and its scales "
                f"{quoted(name + suffix)} are missing"
            )
        else:
            found[name] = info
    return found


def _check_weight(scale: TensorInfo, weight: TensorInfo | None) -> None:
    """Raise BadCheckpoint or PlanRefused if `scale` cannot be applied to its weight."""
    if weight is None:
        raise BadCheckpoint(f"tensor {quoted(scale.name)} holds scales, and its weight is missing")
    if weight.dtype not in FLOATS8:
        raise PlanRefused(
            f"cannot dequantize tensor {quoted(weight.name)}: it is {weight.dtype}, and only "
            f"{', '.join(sorted(FLOATS8))} with scales can be dequantized"
        )
    if scale.dtype not in SCALES:
        raise PlanRefused(
            f"cannot dequantize by tensor {quoted(scale.name)}: it is {scale.dtype}, and only "
            f"scales in {', '.join(sorted(SCALES))} can be read"
        )


def _block(
    weight: TensorInfo, scale: TensorInfo, declared: tuple[int, int] | None
) -> tuple[int, int]:
    """Return the rows and columns of a block of `weight`.

    They are the config's if there is a scale for each such block, else the shape of the weight
    divided by that of the scales: 2 x 3 scales of a 256 x 384 weight are for blocks of 128 x 128.
    Raises BadCheckpoint if neither is possible.
    """
    grid = scale.shape if math.prod(scale.shape) != 1 else (1,) * len(weight.shape)
    if len(weight.shape) >= 2 and grid[:-2] == weight.shape[:-2] and len(grid) == len(weight.shape):
        matrix, blocks = weight.shape[-2:], grid[-2:]
        if declared and blocks == tuple(-(-n // b) for n, b in zip(matrix, declared, strict=True)):
            return declared
        if all(b and n % b == 0 for n, b in zip(matrix, blocks, strict=True)):
            return matrix[0] // blocks[0], matrix[1] // blocks[1]
    said = f"; config.json says blocks of {list(declared)}" if declared else ""
    raise BadCheckpoint(
        f"tensor {quoted(scale.name)} has shape {list(scale.shape)}, which does not divide "
        f"{quoted(weight.name)} {list(weight.shape)} into blocks{said}"
    )

"""Which tensors are cast or dequantized, and from what. Pure.

A cast is a matter of reading: a checkpoint under a casting is the same checkpoint with other
dtypes, and everything after it is planned as if they had been stored so. Casts therefore compose
with any rearrangement, and bytes, shards and memory follow. Names that are spared are rows of
`data/casts.toml`.
"""

import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from streamconv.catalog.toml_tables import read_table
from streamconv.checkpoint.types import Cast, Checkpoint, TensorInfo, pattern_of
from streamconv.errors import BadCheckpoint, PlanRefused, UsageError, quoted
from streamconv.formats.safetensors import DTYPE_BITS

DTYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
"""What a cast can make, by what people call it."""
LONG_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
"""The same, as configs call it."""
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""What `--dtype` casts: narrower floats stand for something only together with their scales."""
FLOATS8 = frozenset({"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})
"""What is dequantized."""
SCALES = frozenset({"F32", "BF16", "F16", "F8_E8M0", "U8"})
"""What scales are stored as; U8 holds the bits of F8_E8M0."""

PORTION_BYTES = 2**20
"""What is read at once of a tensor that becomes narrower, so that it needs a place of its own."""
SCRATCH_BYTES = 2**19
"""What a worker needs besides where anything is cast: chunks on their way through the cache."""


@dataclass(frozen=True, slots=True)
class Casting:
    """What is asked for; by default nothing."""

    dtype: str | None = None
    """The dtype of the format, such as `BF16`, that floating tensors get."""
    dequantize: str | None = None
    """The one that block-scaled weights get."""
    everything: bool = False
    """Whether routers, their biases and norms are cast as well."""

    def to_json(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "dequantize": self.dequantize, "all": self.everything}


AS_STORED = Casting()
"""Nothing is cast."""


def parse_casting(dtype: str | None, dequantize: str | None, everything: bool) -> Casting:
    """The casting meant by `bf16`, `fp16` or `fp32`. Raises UsageError."""
    if everything and dtype is None:
        raise UsageError(
            "--cast-all says that --dtype is for routers and norms too, and there is no --dtype"
        )
    return Casting(_dtype(dtype), _dtype(dequantize), everything)


def _dtype(name: str | None) -> str | None:
    if name is None or name in DTYPES:
        return name and DTYPES[name]
    raise UsageError(f"{name!r} is no dtype to cast to", f"there are {', '.join(DTYPES)}")


def cast_checkpoint(checkpoint: Checkpoint, casting: Casting) -> Checkpoint:
    """`checkpoint` as if it had been stored in the dtypes asked for; scales are used up.

    A tensor that becomes another has the stored ones in its `cast`. Raises PlanRefused where
    there is nothing to dequantize or a weight cannot be, BadCheckpoint where scales are missing,
    left over or do not fit their weight.
    """
    if casting == AS_STORED:
        return checkpoint
    tensors = dict(checkpoint.tensors)
    if casting.dequantize is not None:
        tensors = _dequantized(checkpoint, casting.dequantize)
    if casting.dtype is not None:
        tensors = {
            name: _cast(info, Cast(info), casting.dtype) if _is_cast(info, casting) else info
            for name, info in tensors.items()
        }
    return replace(checkpoint, tensors=tensors)


def _cast(info: TensorInfo, cast: Cast, dtype: str) -> TensorInfo:
    nbytes = math.prod(info.shape) * DTYPE_BITS[dtype] // 8
    return replace(info, dtype=dtype, nbytes=nbytes, cast=cast)


def _is_cast(info: TensorInfo, casting: Casting) -> bool:
    """Whether `--dtype` changes a tensor."""
    if info.cast is not None or info.dtype not in FLOATS or info.dtype == casting.dtype:
        return False
    kept = protected_kind(info.name)
    return kept is None or (casting.everything and kept not in _table()["never"])


# --- what is spared ----------------------------------------------------------------------------


def protected_kind(name: str) -> str | None:
    """`router`, `norm` or `scale` where a tensor is spared from casts for that; else None."""
    return next((kind for kind, fits in _spared().items() if fits.fullmatch(name)), None)


@functools.cache
def _spared() -> Mapping[str, re.Pattern[str]]:
    """Of each kind, what names it is told by; what is never cast comes first."""
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


def _dequantized(checkpoint: Checkpoint, dtype: str) -> dict[str, TensorInfo]:
    """The tensors with every scaled weight in `dtype`, and no scales."""
    suffix = _table()["scaled"]["suffix"]
    stated = stated_block(checkpoint.config)
    tensors = checkpoint.tensors
    scales = {name for name in tensors if name.endswith(suffix)}
    if not scales:
        raise PlanRefused(
            f"{checkpoint.location} holds nothing to dequantize: no tensor's name ends in {suffix}",
            "only block-scaled FP8 is dequantized",
        )
    found = {}
    for name, info in tensors.items():
        if name in scales:
            _check_weight(info, tensors.get(name.removesuffix(suffix)))
        elif name + suffix in scales:
            scale = tensors[name + suffix]
            found[name] = _cast(info, Cast(info, scale, _block(info, scale, stated)), dtype)
        elif info.dtype in FLOATS8:
            raise BadCheckpoint(
                f"tensor {quoted(name)} is {info.dtype}, and there is no {quoted(name + suffix)} "
                "to dequantize it with"
            )
        else:
            found[name] = info
    return found


def _check_weight(scale: TensorInfo, weight: TensorInfo | None) -> None:
    if weight is None:
        raise BadCheckpoint(f"tensor {quoted(scale.name)} holds scales, and its weight is missing")
    if weight.dtype not in FLOATS8:
        raise PlanRefused(
            f"tensor {quoted(weight.name)} is {weight.dtype} with scales beside it; "
            f"only {', '.join(sorted(FLOATS8))} is dequantized"
        )
    if scale.dtype not in SCALES:
        raise PlanRefused(
            f"tensor {quoted(scale.name)} is {scale.dtype}; scales are read from "
            f"{', '.join(sorted(SCALES))}"
        )


def stated_block(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns of a block, where the config says how large it is."""
    for section in (config, *config.values()):
        quantization = section.get("quantization_config") if isinstance(section, Mapping) else None
        block = quantization.get("weight_block_size") if isinstance(quantization, Mapping) else None
        if isinstance(block, list) and len(block) == 2 and all(type(n) is int for n in block):
            return (block[0], block[1]) if min(block) > 0 else None
    return None


def _block(
    weight: TensorInfo, scale: TensorInfo, stated: tuple[int, int] | None
) -> tuple[int, int]:
    """Rows and columns of a block of `weight`: the config's where the scales count such blocks,
    else what its shape divided by theirs gives."""
    grid = scale.shape if math.prod(scale.shape) != 1 else (1,) * len(weight.shape)
    if len(weight.shape) >= 2 and grid[:-2] == weight.shape[:-2] and len(grid) == len(weight.shape):
        matrix, blocks = weight.shape[-2:], grid[-2:]
        if stated and blocks == tuple(-(-n // b) for n, b in zip(matrix, stated, strict=True)):
            return stated
        if all(b and n % b == 0 for n, b in zip(matrix, blocks, strict=True)):
            return matrix[0] // blocks[0], matrix[1] // blocks[1]
    said = f", config.json says blocks of {list(stated)}" if stated else ""
    raise BadCheckpoint(
        f"tensor {quoted(scale.name)} has shape {list(scale.shape)}, which are no blocks of "
        f"{quoted(weight.name)} {list(weight.shape)}{said}"
    )


# --- what a plan says of them ------------------------------------------------------------------


def buffer_bytes(inputs: Iterable[TensorInfo], concurrent_inputs: int) -> int:
    """What one worker holds to cast any of `inputs`, `concurrent_inputs` read at a time."""
    most = 0
    for info in inputs:
        if info.cast is not None:
            scales = math.prod(info.cast.scales.shape) if info.cast.scales else 0
            most = max(most, SCRATCH_BYTES + PORTION_BYTES + concurrent_inputs * scales * 8)
    return most


def cast_rows(inputs: Iterable[TensorInfo]) -> list[dict[str, Any]]:
    """Every cast among `inputs`; tensors whose names differ only in numbers share a row."""
    rows: dict[tuple[str, str, str, bool], int] = {}
    for info in inputs:
        if info.cast is not None:
            scaled = info.cast.scales is not None
            key = (pattern_of(info.name), info.cast.stored.dtype, info.dtype, scaled)
            rows[key] = rows.get(key, 0) + 1
    fields = ("tensors", "from", "to", "scaled", "count")
    return [dict(zip(fields, (*key, count), strict=True)) for key, count in sorted(rows.items())]


def protected_rows(inputs: Iterable[TensorInfo], casting: Casting) -> dict[str, int]:
    """How many tensors a cast would have changed, were they not what they are, by kind."""
    found: dict[str, int] = {}
    for info in inputs if casting.dtype else ():
        if info.cast is None and info.dtype in FLOATS and info.dtype != casting.dtype:
            kind = protected_kind(info.name) or "other"
            found[kind] = found.get(kind, 0) + 1
    return found


def notes(config: Mapping[str, Any], casting: Casting) -> Iterator[str]:
    """What config.json, which travels unchanged, says and is no longer so."""
    if casting.dequantize is not None and "quantization_config" in config:
        yield (
            "config.json travels unchanged and its quantization_config still describes quantized "
            "weights: take it out before the result is loaded"
        )
    said = config.get("dtype", config.get("torch_dtype"))
    if casting.dtype is not None and isinstance(said, str) and said != LONG_NAMES[casting.dtype]:
        yield (
            f"config.json travels unchanged and still says dtype {quoted(said)}: loaders that go "
            f"by it will not load {LONG_NAMES[casting.dtype]}"
        )

"""A checkpoint as if it had been stored in other dtypes, or had not been quantized."""

import math
from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase

from streamconv.catalog.families import Family
from streamconv.checkpoint.casting import AS_STORED, FLOATS, Casting
from streamconv.checkpoint.protected_tensors import KEPT_IN_FP32, protected_kind, protects_always
from streamconv.checkpoint.types import Cast, Checkpoint, TensorInfo
from streamconv.errors import BadCheckpoint, PlanRefused, quoted
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.quantization.announcement import transforms_of_inputs
from streamconv.quantization.recognize import QuantizedWeight, Recognized, recognize
from streamconv.quantization.stored_shape import ReadSmall


def cast_checkpoint(
    checkpoint: Checkpoint,
    casting: Casting,
    family: Family | None = None,
    read: ReadSmall | None = None,
) -> Checkpoint:
    """Return `checkpoint` as if it had been stored in the dtypes that were asked for.

    A tensor that changes keeps the stored ones in its `cast`. The result has no tensors for the
    scales of dequantized weights.

    Args:
        checkpoint: The checkpoint as it is stored.
        casting: What was asked for.
        family: Its family. A tensor is protected from casts by any of the names that it has in
            the forms of the family.
        read: Reads the shapes of packed matrices, which are stored as numbers.

    Raises:
        PlanRefused: There is nothing to dequantize.
        BadCheckpoint: Scales are missing, left over, or do not fit their weight; or config.json
            describes another format.
    """
    if casting == AS_STORED:
        return checkpoint
    tensors = dict(checkpoint.tensors)
    if casting.dequantize is not None:
        tensors = _dequantize(checkpoint, casting, casting.dequantize, read)
    if casting.dtype is not None:
        tensors = {
            name: _cast(info, Cast(info), casting.dtype)
            if _is_cast(info, casting, family)
            else info
            for name, info in tensors.items()
        }
    return replace(checkpoint, tensors=tensors)


def _cast(info: TensorInfo, cast: Cast, dtype: str) -> TensorInfo:
    nbytes = math.prod(info.shape) * DTYPE_BITS[dtype] // 8
    return info._replace(dtype=dtype, nbytes=nbytes, cast=cast)


def _is_cast(info: TensorInfo, casting: Casting, family: Family | None) -> bool:
    """Return True if `--dtype` changes a tensor."""
    if info.cast is not None or info.dtype not in FLOATS or info.dtype == casting.dtype:
        return False
    protected = protected_kind(info.name, family)
    if protected == KEPT_IN_FP32 and casting.dtype == "F32":
        return True
    return protected is None or (casting.everything and not protects_always(protected))


# --- quantized weights -------------------------------------------------------------------------


def _dequantize(
    checkpoint: Checkpoint, casting: Casting, dtype: str, read: ReadSmall | None
) -> dict[str, TensorInfo]:
    """Return the tensors with the chosen weights in `dtype`, without the rest of their stems."""
    found = recognize(checkpoint, read)
    chosen = _chosen(checkpoint, found, casting)
    gone = {info.name for weight in chosen for info in (*weight.companions, *weight.dropped)}
    by_codes = {weight.codes.name: weight for weight in chosen}
    tensors: dict[str, TensorInfo] = {}
    for name, info in checkpoint.tensors.items():
        if name in by_codes:
            decoded = _decoded(by_codes[name], dtype)
            if decoded.name in tensors or (
                decoded.name != name and decoded.name in checkpoint.tensors
            ):
                raise BadCheckpoint(
                    f"cannot dequantize tensor {quoted(name)}: the result would be called "
                    f"{quoted(decoded.name)}, and another tensor has that name"
                )
            tensors[decoded.name] = decoded
        elif name not in gone:
            tensors[name] = info
    return tensors


def _decoded(weight: QuantizedWeight, dtype: str) -> TensorInfo:
    """Return the tensor that a weight is decoded to."""
    decoding, codes = weight.decoding, weight.codes
    assert decoding is not None
    lead = codes.shape[: _leading(codes, decoding.codes.matrices)]
    info = codes._replace(name=weight.name, shape=(*lead, *decoding.shape))
    return _cast(info, Cast(codes, weight.companions, decoding, weight.dropped), dtype)


def _leading(codes: TensorInfo, matrices: int) -> int:
    """Return the number of dimensions that count matrices."""
    count, product = 0, 1
    while product < matrices or (count < len(codes.shape) - 2 and codes.shape[count] == 1):
        product *= codes.shape[count]
        count += 1
    return count


def _chosen(
    checkpoint: Checkpoint, found: Recognized, casting: Casting
) -> tuple[QuantizedWeight, ...]:
    """Return the weights that are dequantized. Raises PlanRefused if there are none."""
    weights = [w for w in found.weights.values() if w.decoding is not None]
    if not weights:
        named = {w.format.says for w in found.weights.values()}
        if named:
            raise PlanRefused(
                f"cannot dequantize {checkpoint.location}: its weights are quantized by "
                f"{' and '.join(sorted(named))}, which is not decoded",
                "leave out --dequantize to copy them as they are",
            )
        said = "; ".join(each.text for each in found.announced)
        raise PlanRefused(
            f"cannot dequantize {checkpoint.location}: no tensor holds scales"
            f"{f', though config.json describes number formats: {said}' if said else ''}",
            "leave out --dequantize",
        )
    chosen = tuple(weight for weight in weights if is_chosen(weight, casting))
    _check_patterns(weights, casting)
    transforms = transforms_of_inputs(checkpoint.config)
    if transforms and len(chosen) == len(weights):
        raise PlanRefused(
            f"cannot dequantize {checkpoint.location}: its weights are for inputs that "
            f"{quoted(transforms)} transforms, and config.json would no longer say so",
            "leave out --dequantize, or keep a weight quantized with --except",
        )
    if not chosen:
        raise PlanRefused(
            f"cannot dequantize {checkpoint.location}: --only and --except leave none of its "
            f"{len(weights):,} quantized weights",
            "choose other names",
        )
    return chosen


def is_chosen(weight: QuantizedWeight, casting: Casting) -> bool:
    """Return True if `--only` and `--except` let a weight be dequantized."""
    if casting.only and not any(_selects(pattern, weight) for pattern in casting.only):
        return False
    return not any(_selects(pattern, weight) for pattern in casting.skip)


def _selects(pattern: str, weight: QuantizedWeight) -> bool:
    """Return True if a pattern is the name of the weight's format, or fits the weight's name."""
    names = (weight.name, weight.codes.name)
    return pattern == weight.format.name or any(fnmatchcase(name, pattern) for name in names)


def _check_patterns(weights: Iterable[QuantizedWeight], casting: Casting) -> None:
    """Raise PlanRefused for a pattern that selects no weight, which must be a mistake."""
    for option, patterns in (("--only", casting.only), ("--except", casting.skip)):
        for pattern in patterns:
            if not any(_selects(pattern, weight) for weight in weights):
                known = ", ".join(sorted({weight.format.name for weight in weights}))
                raise PlanRefused(
                    f"cannot apply {option} {quoted(pattern)}: no quantized weight has that name, "
                    f"and the formats here are {known}",
                    "write a name with * for any text, as in --only '*.experts.*'",
                )

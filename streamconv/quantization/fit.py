"""Fit the tensors of a stem to a number format: solve the sizes of its matrix.

Codes are read with each choice of axes that the format allows for them. A reading fits if there is
a size of the matrix for which all other tensors of the stem have their place.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from streamconv.checkpoint.decoding import Decoding
from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import quoted
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.quantization.misfits import Misfit, misplaced, wrong_part, wrong_zero
from streamconv.quantization.number_format import NumberFormat, Part
from streamconv.quantization.placement import Codes, place_planes
from streamconv.quantization.stems import Stem
from streamconv.quantization.stored_shape import MatrixShape


def fit(
    row: NumberFormat,
    stem: Stem,
    stated: Mapping[str, set[Any]],
    recorded: MatrixShape | None = None,
) -> Decoding | Misfit:
    """Fit the tensors of a stem to a format.

    Args:
        row: The format.
        stem: The tensors.
        stated: What config.json says of `group`, `block` and `symmetric` if it allows the format;
            empty for what it does not say.
        recorded: The shape of the matrix, if a tensor of the stem records it.

    Returns:
        How the weight is decoded, or the reason why it is not of this format.
    """
    codes = stem.find(row.codes.words)
    if codes is None:
        return Misfit(f"it has no {row.codes.words[0]}", 0)
    if codes.dtype not in row.codes.dtypes:
        return Misfit(
            f"it is {codes.dtype}, and {row.name} is {' or '.join(sorted(row.codes.dtypes))}", 0
        )
    misfits = []
    for shape in _codes(codes, row):
        solved = _solve(row, stem, shape, stated, recorded)
        if not isinstance(solved, Misfit):
            return solved
        misfits.append(solved)
    return max(
        misfits,
        key=lambda misfit: misfit.matching,
        default=Misfit(f"its shape {list(codes.shape)} is no matrix", 0),
    )


def parts_of(row: NumberFormat, stem: Stem) -> Iterator[tuple[Part, TensorInfo]]:
    """Yield the parts of a format that a stem has, except the codes, each with its tensor."""
    for part in row.others:
        info = stem.find(part.words)
        if info is not None:
            yield part, info


def _codes(info: TensorInfo, row: NumberFormat) -> Iterator[Codes]:
    """Yield the codes with each choice of their axes."""
    shape, part = info.shape, row.codes
    if part.joined > 1:
        if len(shape) < part.joined + 1 or not _is_group(info, row):
            return
        shape = (*shape[: -part.joined], math.prod(shape[-part.joined :]))
    if len(shape) < 2 or not math.prod(shape):
        return
    for first, second in part.axes:
        sizes = {}
        for axis, length in zip((first, second), shape[-2:], strict=True):
            packed = axis.packed if DTYPE_BITS[info.dtype] >= 8 else 1
            sizes[axis.name] = (packed * (length - 1) + 1, packed * length)
        yield Codes(info, part, (first, second), shape[:-2], (shape[-2], shape[-1]), sizes)


def _is_group(info: TensorInfo, row: NumberFormat) -> bool:
    """Return True if the last dimension of codes holds those of one scale."""
    scale = row.part("scale")
    per = {axis.per for axes in (scale.axes if scale else ()) for axis in axes}
    return info.shape[-1] * DTYPE_BITS[info.dtype] // (row.codes.bits or 8) in per


def _solve(
    row: NumberFormat,
    stem: Stem,
    codes: Codes,
    stated: Mapping[str, set[Any]],
    recorded: MatrixShape | None,
) -> Decoding | Misfit:
    """Solve the sizes of a matrix, and place everything that belongs to it."""
    wrong = wrong_part(row, stem, codes) or wrong_zero(row, stem, codes, stated)
    if wrong is not None:
        return wrong
    found = dict(parts_of(row, stem))
    for sizes in _sizes(codes, stated, recorded):
        decoding = place_planes(row, codes, found, sizes, stated)
        if decoding is not None:
            return decoding
    if recorded is not None and not _is_possible(codes, recorded):
        shape = next(info for part, info in found.items() if part.role == "shape")
        return Misfit(
            f"{quoted(shape.name)} says {list(recorded)}, and its codes are {codes.info.dtype} "
            f"{list(codes.info.shape)}",
            2,
        )
    return Misfit(misplaced(row, codes, found, stated), 1)


def _sizes(
    codes: Codes,
    stated: Mapping[str, set[Any]],
    recorded: MatrixShape | None,
) -> Iterator[dict[str, int]]:
    """Yield the sizes that the matrix can have, the likeliest first.

    If its shape is recorded, that is the only one. Otherwise, the first sizes are those for which
    all elements are full of codes. Smaller numbers of columns follow, if the groups of config.json
    divide them.
    """
    if recorded is not None:
        if _is_possible(codes, recorded):
            yield {"o": recorded[0], "i": recorded[1]}
        return
    full = {axis: most for axis, (_, most) in codes.sizes.items()}
    yield full
    least = {axis: low for axis, (low, _) in codes.sizes.items()}
    for size in range(full["i"] - 1, least["i"] - 1, -1):
        groups = {g for g in stated.get("group", ()) if type(g) is int and g > 0}
        if any(size % group == 0 for group in groups):
            yield {**full, "i": size}


def _is_possible(codes: Codes, recorded: MatrixShape) -> bool:
    return all(
        codes.sizes[axis][0] <= size <= codes.sizes[axis][1]
        for axis, size in zip("oi", recorded, strict=True)
    )

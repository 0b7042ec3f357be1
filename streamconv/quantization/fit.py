"""Fit the tensors of a stem to a number format: solve the sizes, and find where everything lies."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streamconv.checkpoint.decoding import Decoding, Plane
from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import quoted
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.quantization.number_format import (
    Axis,
    NumberFormat,
    Part,
    activation_words,
)
from streamconv.quantization.stems import Stem

Size = int | tuple[int, int]
"""A size of an axis, or the smallest and the largest that it can have."""

MatrixShape = tuple[int, int]
"""Rows of outputs and columns of inputs that a `weight_shape` says."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """The reason why tensors do not fit a format."""

    reason: str
    """A whole sentence without its end, with both facts."""
    matching: int
    """Number of the tensors that do fit: the closest format has most."""


@dataclass(frozen=True, slots=True)
class _Codes:
    """The codes of a stem, with one reading of their axes."""

    info: TensorInfo
    part: Part
    axes: tuple[Axis, Axis]
    lead: tuple[int, ...]
    stored: tuple[int, int]
    sizes: Mapping[str, tuple[int, int]]
    """The smallest and the largest size that `o` and `i` can have."""


def fit(
    row: NumberFormat, stem: Stem, stated: Mapping[str, set[Any]], said: MatrixShape | None = None
) -> Decoding | Misfit:
    """Fit the tensors of a stem to a format.

    Args:
        row: The format.
        stem: The tensors.
        stated: By `group`, `block` and `symmetric`, what config.json says where it allows the
            format; empty for what it does not say.
        said: The shape of the matrix that is stored as numbers, if it is known.

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
    for shape in _codes(codes, row.codes):
        solved = _solve(row, stem, shape, stated, said)
        if not isinstance(solved, Misfit):
            return solved
        misfits.append(solved)
    return max(
        misfits,
        key=lambda misfit: misfit.matching,
        default=Misfit(f"its shape {list(codes.shape)} is no matrix", 0),
    )


def parts_of(row: NumberFormat, stem: Stem) -> Iterator[tuple[Part, TensorInfo]]:
    """Yield what a stem has in a format next to its codes."""
    for part in row.others:
        info = stem.find(part.words)
        if info is not None:
            yield part, info


def _codes(info: TensorInfo, part: Part) -> Iterator[_Codes]:
    """Yield each reading of the axes of codes."""
    shape = info.shape
    if part.joined > 1:
        if len(shape) < part.joined + 1:
            return
        shape = (*shape[: -part.joined], math.prod(shape[-part.joined :]))
    if len(shape) < 2 or not math.prod(shape):
        return
    for first, second in part.axes:
        sizes = {}
        for axis, length in zip((first, second), shape[-2:], strict=True):
            packed = axis.packed if DTYPE_BITS[info.dtype] >= 8 else 1
            sizes[axis.name] = (packed * (length - 1) + 1, packed * length)
        yield _Codes(info, part, (first, second), shape[:-2], (shape[-2], shape[-1]), sizes)


def _solve(
    row: NumberFormat,
    stem: Stem,
    codes: _Codes,
    stated: Mapping[str, set[Any]],
    said: MatrixShape | None,
) -> Decoding | Misfit:
    """Solve the sizes of a matrix, and place everything that belongs to it."""
    wrong = _wrong_part(row, stem, codes) or _wrong_zero(row, stem, codes, stated)
    if wrong is not None:
        return wrong
    found = dict(parts_of(row, stem))
    for sizes in _sizes(codes, stated, said):
        decoding = _place(row, codes, found, sizes, stated)
        if decoding is not None:
            return decoding
    if said is not None and not _is_possible(codes, said):
        shape = next(info for part, info in found.items() if part.role == "shape")
        return Misfit(
            f"{quoted(shape.name)} says {list(said)}, and its codes are {codes.info.dtype} "
            f"{list(codes.info.shape)}",
            2,
        )
    return Misfit(_misplaced(row, codes, found, stated), 1)


def _wrong_part(row: NumberFormat, stem: Stem, codes: _Codes) -> Misfit | None:
    """Return what the stem lacks, has in addition, or has in another dtype than the format."""
    unknown = _unknown_words(row, stem)
    if unknown is not None:
        return Misfit(f"{quoted(unknown.name)} is no part of {row.name}", 1)
    for part in (row.codes, *row.others):
        several = [stem.tensors[word] for word in part.words if word in stem.tensors]
        if len(several) > 1:
            names = " and ".join(quoted(info.name) for info in several)
            return Misfit(f"it has {names}, and {row.name} has one of them", 3)
    for part in row.others:
        info = stem.find(part.words)
        if info is None and part.required:
            return Misfit(
                f"its {_NOUNS[part.role]} {quoted(_expected(codes.info, part))} {_is(part)} "
                "missing",
                0,
            )
        if info is not None and info.dtype not in part.dtypes:
            return Misfit(
                f"its {_NOUNS[part.role]} {quoted(info.name)} {_is(part)} {info.dtype}, and in "
                f"{row.name} {_is(part)} {' or '.join(sorted(part.dtypes))}",
                1,
            )
    return None


def _wrong_zero(
    row: NumberFormat, stem: Stem, codes: _Codes, stated: Mapping[str, set[Any]]
) -> Misfit | None:
    """Return the contradiction between zero points and what config.json says of symmetry."""
    zero = row.part("zero")
    said = stated.get("symmetric", set())
    if zero is None or zero.required or len(said) != 1:
        return None
    info = stem.find(zero.words)
    if True in said and info is not None:
        return Misfit(
            f"it has the zero points {quoted(info.name)}, and config.json says that its codes "
            "are symmetric",
            2,
        )
    if False in said and info is None:
        return Misfit(
            f"its zero points {quoted(_expected(codes.info, zero))} are missing, and config.json "
            "says that its codes are not symmetric",
            2,
        )
    return None


def _unknown_words(row: NumberFormat, stem: Stem) -> TensorInfo | None:
    """Return a tensor of the stem that the format does not have; None if there is none."""
    known = row.words | activation_words() | {"bias"}
    return next((info for word, info in stem.tensors.items() if word not in known), None)


def _is_possible(codes: _Codes, said: MatrixShape) -> bool:
    return all(
        codes.sizes[axis][0] <= size <= codes.sizes[axis][1]
        for axis, size in zip("oi", said, strict=True)
    )


def _sizes(
    codes: _Codes,
    stated: Mapping[str, set[Any]],
    said: MatrixShape | None,
) -> Iterator[dict[str, int]]:
    """Yield the sizes that the matrix can have, the likeliest first.

    They are those that it says itself. Else elements are full, unless there are too few groups.
    """
    if said is not None:
        if _is_possible(codes, said):
            yield {"o": said[0], "i": said[1]}
        return
    full = {axis: most for axis, (_, most) in codes.sizes.items()}
    yield full
    least = {axis: low for axis, (low, _) in codes.sizes.items()}
    for size in range(full["i"] - 1, least["i"] - 1, -1):
        groups = {g for g in stated.get("group", ()) if type(g) is int and g > 0}
        if any(size % group == 0 for group in groups):
            yield {**full, "i": size}


def _place(
    row: NumberFormat,
    codes: _Codes,
    found: Mapping[Part, TensorInfo],
    sizes: Mapping[str, int],
    stated: Mapping[str, set[Any]],
) -> Decoding | None:
    """Return where everything lies if the matrix has these sizes; None if it does not fit."""
    decoded = row.decoded or "".join(axis.name for axis in codes.axes)
    planes: list[tuple[str, Plane]] = []
    block: tuple[int, int] | None = None
    for part, info in found.items():
        if part.role in ("index", "shape"):
            plane = _numbers(part, info, codes, sizes)
        elif part.role == "second":
            plane = _single(part, info, codes, sizes, decoded)
        else:
            plane = _grid(part, info, codes, sizes, stated, decoded, block)
        if plane is None:
            return None
        block = block or plane.block
        planes.append((part.role, plane))
    second = row.part("second")
    axes = codes.axes
    shape = (sizes[decoded[0]], sizes[decoded[1]])
    return Decoding(
        format=row.name,
        shape=shape,
        codes=_plane(
            codes.part, codes.info, axes, codes.stored, decoded, shape, (1, 1), codes.lead
        ),
        planes=tuple(planes),
        second=second.use if second else "",
    )


def _grid(
    part: Part,
    info: TensorInfo,
    codes: _Codes,
    sizes: Mapping[str, int],
    stated: Mapping[str, set[Any]],
    decoded: str,
    wanted: tuple[int, int] | None,
) -> Plane | None:
    """Return where scales or zero points lie; None if no axes of the format fit their shape.

    `wanted` is the block of the scales, for zero points.
    """
    for axes in part.axes:
        for lead in dict.fromkeys((codes.lead, ())):
            for block in _blocks(axes, sizes, stated, info.shape[len(lead) :]):
                counts = {axis: -(-sizes[axis] // block[axis]) for axis in "oi"}
                tail = tuple(
                    -(-counts[axis.name] // axis.packed) if axis.name else 1 for axis in axes
                )
                if (*lead, *tail) != info.shape:
                    continue
                if lead != codes.lead and math.prod(tail) > 1:
                    continue  # experts can share one number, and no grid
                stored, names = _two_axes(axes, tail, decoded)
                per = (block[decoded[0]], block[decoded[1]])
                if wanted not in (None, per):
                    continue
                shape = (counts[decoded[0]], counts[decoded[1]])
                return _plane(part, info, names, stored, decoded, shape, per, lead)
    return None


def _blocks(
    axes: Sequence[Axis],
    sizes: Mapping[str, int],
    stated: Mapping[str, set[Any]],
    tail: Sequence[int],
) -> Iterator[dict[str, int]]:
    """Yield what one number can be for: elements along `o` and along `i`.

    An axis that is not there has a single number for all of its elements.
    """
    choices: dict[str, list[int]] = {name: [sizes[name]] for name in "oi"}
    symbols = 0
    for place, axis in enumerate(axes):
        if not axis.name:
            continue
        if isinstance(axis.per, int):
            choices[axis.name] = [axis.per]
            continue
        symbols += 1
        size, count = sizes[axis.name], tail[place] if place < len(tail) else 0
        divided = [size // count] if count and not size % count else []
        choices[axis.name] = _stated(axis, stated, divided)
    given = {block for block in stated.get("block", ()) if block is not None}
    if symbols == 2 and given:
        for o, i in sorted(given):
            yield {"o": o, "i": i}
        return
    for o, i in itertools.product(choices["o"], choices["i"]):
        yield {"o": o, "i": i}


def _stated(axis: Axis, stated: Mapping[str, set[Any]], divided: list[int]) -> list[int]:
    """Return the sizes of groups that the configuration gives for an axis.

    If it gives none, or only for some weights, the size by which the shapes divide counts, too.
    """
    groups = stated.get("group", {None}) if axis.per == "g" else {None}
    given = sorted(g for g in groups if type(g) is int and g > 0)
    return [*given, *divided] if len(given) < len(groups) else given


def _two_axes(
    axes: Sequence[Axis], tail: tuple[int, ...], decoded: str
) -> tuple[tuple[int, int], tuple[Axis, Axis]]:
    """Return the shape and the axes as those of a matrix, with axes of one element added."""
    named = [(axis, size) for axis, size in zip(axes, tail, strict=True) if axis.name]
    present = {axis.name for axis, _ in named}
    for name in decoded:
        if name not in present:
            place = 0 if name == decoded[0] else len(named)
            named.insert(place, (Axis(name), 1))
    (first, rows), (second, columns) = named
    return (rows, columns), (first, second)


def _single(
    part: Part, info: TensorInfo, codes: _Codes, sizes: Mapping[str, int], decoded: str
) -> Plane | None:
    """Return where a scale for a whole matrix lies; None if there is not one for each, or one."""
    count = math.prod(info.shape)
    matrices = math.prod(codes.lead)
    if count not in (1, matrices):
        return None
    block = (sizes[decoded[0]], sizes[decoded[1]])
    bits = DTYPE_BITS[info.dtype]
    return Plane(info.dtype, part.values, bits, 0, (1, 1), block, (1, 1), matrices=count)


def _numbers(part: Part, info: TensorInfo, codes: _Codes, sizes: Mapping[str, int]) -> Plane | None:
    """Return where plain integers lie: a group for each input, or a shape."""
    count = sizes["i"] if part.role == "index" else 2
    if math.prod(info.shape) % count or (part.role == "index" and info.shape != (count,)):
        return None
    rows, matrices = math.prod(info.shape) // count, 1
    if part.role == "shape" and rows % math.prod(codes.lead) == 0:
        matrices = math.prod(codes.lead)
    stored = (rows // matrices, count)
    bits = DTYPE_BITS[info.dtype]
    return Plane(info.dtype, "int", bits, 0, stored, (1, 1), stored, matrices=matrices)


def _plane(
    part: Part,
    info: TensorInfo,
    axes: tuple[Axis, Axis],
    stored: tuple[int, int],
    decoded: str,
    shape: tuple[int, int],
    block: tuple[int, int],
    lead: tuple[int, ...],
) -> Plane:
    """Return the plane of a part, given the axes of its tensor and of the decoded matrix."""
    packed = next((axis.name for axis in axes if axis.packed > 1), "")
    if DTYPE_BITS[info.dtype] < 8:
        # a dtype of 4 bits counts codes, two of which are in a byte
        stored = (stored[0], stored[1] * DTYPE_BITS[info.dtype] // 8)
    return Plane(
        dtype=info.dtype,
        values=part.values,
        bits=part.bits or DTYPE_BITS[info.dtype],
        offset=part.offset,
        shape=shape,
        block=block,
        stored=stored,
        is_transposed=axes[0].name != decoded[0],
        packed=("rows" if packed == decoded[0] else "columns") if packed else "",
        order=part.order,
        matrices=math.prod(lead),
    )


# --- words -------------------------------------------------------------------------------------


_NOUNS = {
    "scale": "scales",
    "second": "second scale",
    "zero": "zero points",
    "index": "group index",
    "shape": "shape",
}


def _is(part: Part) -> str:
    return "are" if part.role in ("scale", "zero") else "is"


def _expected(codes: TensorInfo, part: Part) -> str:
    """Return the name that a missing part would have next to the codes."""
    from streamconv.catalog.companions import companion_suffixes, split_name

    stem, _ = split_name(codes.name)
    ending = codes.name[len(stem) :]
    word = part.words[0]
    if ending[:1] in (".", "_") and (ending[1:] == "weight" or not ending.startswith("_")):
        return f"{stem}{ending[0]}{word}"
    return stem + companion_suffixes().get(word, f"_{word}")


def _misplaced(
    row: NumberFormat,
    codes: _Codes,
    found: Mapping[Part, TensorInfo],
    stated: Mapping[str, set[Any]],
) -> str:
    """Return why the shapes do not fit, as a sentence without its end."""
    listed = ", ".join(f"{quoted(info.name)} {list(info.shape)}" for info in found.values())
    given = [
        f"{key} {', '.join(sorted(str(value) for value in values))}"
        for key in ("block", "group")
        if (values := stated.get(key, set()) - {None})
    ]
    said = f"; config.json says {' and '.join(given)}" if given else ""
    return f"{listed} does not divide its shape {list(codes.info.shape)} as {row.name} does{said}"

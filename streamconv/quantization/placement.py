"""Place the tensors of a quantized weight: where the numbers of each lie, for sizes of a matrix."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streamconv.catalog.templates import EXPERTS
from streamconv.checkpoint.decoding import Decoding, Plane
from streamconv.checkpoint.types import TensorInfo
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.quantization.number_format import Axis, NumberFormat, Part

HALF = "p"
"""`Axis.per` of an axis with gate and up, if each has one number: it is for half of the axis."""
EXPERT = "e"
"""`Axis.per` of an axis with several experts below one another, if each has one number."""
WHOLE = -1
"""The size of a group that has all of an axis."""
BLOCK_AXES = ("b", "c")
FREE = (*BLOCK_AXES, "g")
"""`Axis.per` of axes with groups or blocks of a size that only config.json tells."""
USUAL_BLOCK = 128
"""Rows and columns of a block if config.json does not say, as in transformers. The last block of
this size may be smaller. Other blocks have to divide the matrix."""


@dataclass(frozen=True, slots=True)
class Codes:
    """The codes of a stem, with one reading of their axes."""

    info: TensorInfo
    part: Part
    axes: tuple[Axis, Axis]
    lead: tuple[int, ...]
    stored: tuple[int, int]
    sizes: Mapping[str, tuple[int, int]]
    """The smallest and the largest size that `o` and `i` can have."""


def holds_experts(name: str) -> bool:
    """Return True if a tensor of this name holds several experts."""
    _, found, rest = name.rpartition(EXPERTS)
    return bool(found) and not rest.partition(".")[0].isdigit()


def place_planes(
    row: NumberFormat,
    codes: Codes,
    found: Mapping[Part, TensorInfo],
    sizes: Mapping[str, int],
    stated: Mapping[str, set[Any]],
) -> Decoding | None:
    """Return where everything lies if the matrix has these sizes; None if it does not fit."""
    decoded = row.decoded or "".join(axis.name for axis in codes.axes)
    planes: list[tuple[str, Plane]] = []
    block: tuple[int, int] | None = None
    for part, info in found.items():
        if part.role == "index":
            plane = _group_index(info, codes, sizes)
        elif part.role == "shape":
            plane = _shape(info, codes)
        else:
            wanted = block if part.role == "zero" else None
            plane = _grid(part, info, codes, sizes, stated, decoded, wanted)
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
    codes: Codes,
    sizes: Mapping[str, int],
    stated: Mapping[str, set[Any]],
    decoded: str,
    wanted: tuple[int, int] | None,
) -> Plane | None:
    """Return where scales or zero points lie; None if no axes of the format fit their shape.

    For zero points, `wanted` is the block of the scales.
    """
    for axes in part.axes:
        if any(axis.per == EXPERT for axis in axes) and not holds_experts(codes.info.name):
            continue
        for lead in dict.fromkeys((codes.lead, ())):
            for block in _blocks(axes, sizes, stated, info.shape[len(lead) :]):
                counts = {axis: -(-sizes[axis] // block[axis]) for axis in "oi"}
                tail = tuple(
                    -(-counts[axis.name] // axis.packed) if axis.name else 1 for axis in axes
                )
                if (*lead, *tail) != info.shape:
                    continue
                if lead != codes.lead and math.prod(tail) > 1:
                    continue  # experts can share a single number, but not a grid
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
    """Yield the blocks that one number can cover: elements along `o` and along `i`.

    A missing axis has a single number for all of its elements.
    """
    choices: dict[str, list[int]] = {name: [sizes[name]] for name in "oi"}
    symbols = 0
    for place, axis in enumerate(axes):
        if not axis.name:
            continue
        if isinstance(axis.per, int):
            choices[axis.name] = [axis.per]
            continue
        if axis.per == HALF:
            choices[axis.name] = [sizes[axis.name] // 2] if sizes[axis.name] % 2 == 0 else []
            continue
        count = tail[place] if place < len(tail) else 0
        if axis.per == EXPERT:
            choices[axis.name] = (
                [sizes[axis.name] // count] if count and not sizes[axis.name] % count else []
            )
            continue
        symbols += 1
        divided = _divided(sizes[axis.name], count)
        if axis.per in BLOCK_AXES and -(-sizes[axis.name] // USUAL_BLOCK) == count:
            divided = [USUAL_BLOCK]
        choices[axis.name] = _stated(axis, stated, divided, sizes[axis.name])
    given = {block for block in stated.get("block", ()) if block is not None}
    if symbols == 2 and given:
        for o, i in sorted(given):
            yield {"o": o, "i": i}
        return
    for o, i in itertools.product(choices["o"], choices["i"]):
        yield {"o": o, "i": i}


def _divided(size: int, count: int) -> list[int]:
    """Return the size of blocks that divide an axis evenly, if nothing else says it.

    None if the last block can be smaller: others of a power of two would give as many.
    """
    if not count or size % count:
        return []
    block = size // count
    power = 1 << (block - 1).bit_length()
    is_open = count > 1 and power != block and -(-size // power) == count
    return [] if is_open else [block]


def _stated(axis: Axis, stated: Mapping[str, set[Any]], divided: list[int], size: int) -> list[int]:
    """Return the sizes of groups that the configuration gives for an axis.

    If it gives none, or only for some weights, the sizes that the shapes allow are included.
    """
    groups = stated.get("group", {None}) if axis.per == "g" else {None}
    given = sorted(g for g in groups if type(g) is int and g > 0)
    given += [size] if WHOLE in groups else []
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


def _group_index(info: TensorInfo, codes: Codes, sizes: Mapping[str, int]) -> Plane | None:
    """Return where the group index of each column lies; None if its shape does not fit.

    All matrices can share it, and gate and up in one tensor can have one each.
    """
    for lead, halves in itertools.product(dict.fromkeys((codes.lead, ())), ((), (2,))):
        rows = math.prod(halves)
        is_halved = not halves or (lead == codes.lead and sizes["o"] % rows == 0)
        if is_halved and (*lead, *halves, sizes["i"]) == info.shape:
            stored = (rows, sizes["i"])
            bits, block = DTYPE_BITS[info.dtype], (sizes["o"] // rows, 1)
            matrices = math.prod(lead)
            return Plane(info.dtype, "int", bits, 0, stored, block, stored, matrices=matrices)
    return None


def _shape(info: TensorInfo, codes: Codes) -> Plane | None:
    """Return where the recorded shapes lie: two numbers for each of the matrices of `codes`.

    A matrix that consists of several on top of each other has a shape for each of them.
    """
    if math.prod(info.shape) % 2:
        return None
    rows, matrices = math.prod(info.shape) // 2, 1
    if rows % math.prod(codes.lead) == 0:
        matrices = math.prod(codes.lead)
    stored = (rows // matrices, 2)
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
        # the shape of a 4-bit dtype counts codes, two of which are in a byte
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

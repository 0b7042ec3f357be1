"""Indices of a slice, as safetensors takes them, as a box of the tensor.

`safe_open` hands the index to torch if its framework is torch. With numpy it has rules of its own,
whose errors are kept word by word: a loader that relies on them finds them here too.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Span = tuple[int, int]
"""A range on a dimension: its first position, and the one after its last."""


@dataclass(frozen=True, slots=True)
class Selection:
    """A box of a tensor, and how the array that holds it becomes the result."""

    box: tuple[Span, ...]
    """The range on each dimension that is read."""
    then: tuple[Any, ...]
    """The index that turns the array over the box into the result."""


def select_torch(index: Any, shape: Sequence[int]) -> Selection | None:
    """Return what a torch index selects; None if it selects more than a box.

    Raises IndexError, TypeError or ValueError, as torch does.
    """
    import torch

    parts = index if isinstance(index, tuple) else (index,)
    if not shape and type(index) is int and index != 0 and -(2**63) <= index < 2**63:
        raise IndexError(f"index {index} is out of bounds for dimension 0 with size 0")
    if not all(map(_is_basic, parts)) or sum(part is Ellipsis for part in parts) > 1:
        # torch lets a second ellipsis skip dimensions that are not there
        return None
    # a tensor of one element, so that what torch refuses is refused before anything is read
    torch.empty((), dtype=torch.uint8, device="cpu").expand(tuple(shape))[index]
    return _select([_as_basic(part) for part in parts], shape)


def select_whole(shape: Sequence[int]) -> Selection:
    """Return the selection of all elements."""
    return Selection(tuple((0, extent) for extent in shape), ())


def _is_basic(part: Any) -> bool:
    """Return True if a part of an index selects a range on one dimension, or adds a dimension."""
    if part is None or part is Ellipsis or isinstance(part, slice):
        return True
    return not isinstance(part, bool) and hasattr(part, "__index__") and not _has_axes(part)


def _has_axes(part: Any) -> bool:
    return bool(getattr(part, "ndim", 0))


def _as_basic(part: Any) -> Any:
    return part if part is None or part is Ellipsis or isinstance(part, slice) else int(part)


def _select(parts: Sequence[Any], shape: Sequence[int]) -> Selection:
    """Return the selection of ints, slices, None and at most one ellipsis, all in bounds."""
    used = sum(part is not None and part is not Ellipsis for part in parts)
    box: list[Span] = []
    then: list[Any] = []
    for part in parts:
        if part is None:
            then.append(None)
        elif part is Ellipsis:
            for extent in shape[len(box) : len(box) + len(shape) - used]:
                box.append((0, extent))
                then.append(slice(None))
        elif isinstance(part, slice):
            chosen = range(shape[len(box)])[part]
            if chosen:
                box.append((chosen[0], chosen[-1] + 1))
            else:
                box.append((chosen.start, chosen.start))
            then.append(slice(None, None, chosen.step))
        else:
            at = part % shape[len(box)]
            box.append((at, at + 1))
            then.append(0)
    box += ((0, extent) for extent in shape[len(box) :])
    return Selection(tuple(box), tuple(then))


def select_numpy(index: Any, shape: Sequence[int]) -> Selection:
    """Return what an index selects by the rules of safetensors for numpy.

    Raises SafetensorError, OverflowError or TypeError, as safetensors does.
    """
    from safetensors import SafetensorError

    if isinstance(index, list):
        if index:
            raise SafetensorError("Non empty lists are not implemented")
        index = slice(0, 0)
    parts = list(index) if isinstance(index, tuple) else [index]
    if sum(part is Ellipsis for part in parts) > 1:
        raise SafetensorError("Only one ellipsis (...) is allowed in slice index")
    chosen = [
        _numpy_range(part, number, shape) for number, part in enumerate(_expand(parts, len(shape)))
    ]
    box: list[Span] = []
    then: list[Any] = []
    shown = f"Error during slicing [{', '.join(map(str, chosen))}] with shape {list(shape)}: "
    if len(chosen) > len(shape):
        raise SafetensorError(f"{shown}more slicing indexes than dimensions in tensor")
    for number, extent in reversed(list(enumerate(shape))):
        one = chosen[number] if number < len(chosen) else _Range(None, None)
        begin, end = one.begin or 0, extent if one.end is None else one.end
        if number < len(chosen) and (begin >= extent or end > extent):
            asked = begin if begin >= extent else max(end - 1, 0)
            raise SafetensorError(
                f"{shown}index {asked} out of bounds for tensor dimension #{number} of size "
                f"{extent}"
            )
        box.append((begin, end))
        then.append(0 if one.is_one else slice(None, None, one.step))
    return Selection(tuple(reversed(box)), tuple(reversed(then)))


@dataclass(frozen=True, slots=True)
class _Range:
    """A range on a dimension, or one position, as safetensors prints it."""

    begin: int | None
    end: int | None
    step: int = 1
    is_one: bool = False

    def __str__(self) -> str:
        if self.is_one:
            return str(self.begin)
        text = f"{'' if self.begin is None else self.begin}:{'' if self.end is None else self.end}"
        return text if self.step == 1 else f"{text}:{self.step}"


def _expand(parts: Sequence[Any], dims: int) -> list[Any]:
    """Replace an ellipsis by whole dimensions."""
    expanded: list[Any] = []
    for part in parts:
        whole = [slice(None)] * max(dims - len(parts) + 1, 0)
        expanded += whole if part is Ellipsis else [part]
    return expanded


def _numpy_range(part: Any, number: int, shape: Sequence[int]) -> _Range:
    """Return the range that one index means."""
    from safetensors import SafetensorError

    if isinstance(part, slice):
        begin, end = _unsigned(part.start), _unsigned(part.stop)
        step = 1 if part.step is None else operator.index(part.step)
        if abs(step) >= 2**64:
            raise OverflowError("int too big to convert")
        if step < 1:
            raise SafetensorError(f"Slice step must be a positive integer, got {step}")
        return _Range(begin, end, step)
    if hasattr(part, "__index__") and not _has_axes(part) and -(2**31) <= int(part) < 2**31:
        return _position(int(part), number, shape)
    raise SafetensorError(
        f"Unsupported slice index at position {number}: expected slice, int, or ellipsis"
    )


def _position(value: int, dimension: int, shape: Sequence[int]) -> _Range:
    """Return one position; a negative one counts from the end of its dimension."""
    from safetensors import SafetensorError

    if value < 0:
        extent = shape[dimension] if dimension < len(shape) else 0
        if value + extent < 0:
            raise SafetensorError(
                f"Invalid index {value} for dimension {dimension} of size {extent}"
            )
        value += extent
    return _Range(value, value + 1, is_one=True)


def _unsigned(value: Any) -> int | None:
    if value is None:
        return None
    number = operator.index(value)
    if number < 0:
        raise OverflowError("can't convert negative int to unsigned")
    if number >= 2**64:
        raise OverflowError("int too big to convert")
    return number

"""The tensors of a checkpoint by the patterns of their names, for any model."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from streamconv.checkpoint.tensor_names import pattern_of, sort_naturally
from streamconv.checkpoint.types import TensorInfo


@dataclass(frozen=True, slots=True)
class TensorKind:
    """All tensors whose names differ only in numbers."""

    pattern: str
    """The name with * for numbers between dots."""
    count: int
    dtypes: tuple[tuple[str, int], ...]
    """Each dtype, and how many of the tensors have it."""
    shapes: tuple[tuple[tuple[int, ...], int], ...]
    """Each shape, and how many of the tensors have it."""
    nbytes: int
    """Bytes of all of them."""


def tensor_kinds(tensors: Iterable[TensorInfo]) -> tuple[TensorKind, ...]:
    """Return the kinds of tensors, sorted by name."""
    grouped: dict[str, list[TensorInfo]] = {}
    for info in tensors:
        grouped.setdefault(pattern_of(info.name), []).append(info)
    return tuple(
        TensorKind(
            pattern,
            len(infos),
            tuple(sorted(Counter(info.dtype for info in infos).items())),
            tuple(sorted(Counter(info.shape for info in infos).items())),
            sum(info.nbytes for info in infos),
        )
        for pattern, infos in sort_naturally(grouped.items(), lambda item: item[0])
    )

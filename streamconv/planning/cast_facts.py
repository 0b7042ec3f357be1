"""The facts of a conversion's casts, as JSON: what dtype each tensor gets, and from what.

"model.layers.0.mlp.experts.0.up_proj.weight": ["F16", "BF16", null, []]
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from streamconv.checkpoint.types import Cast, TensorInfo


class CastFacts(Mapping[str, list[Any]]):
    """The facts of the cast of each tensor. They are made one by one, because there are many."""

    def __init__(self, infos: Iterable[TensorInfo]) -> None:
        """Collect the tensors of a conversion that are cast. They stay in memory as they are."""
        self._infos = {info.name: info for info in infos if info.cast is not None}

    def __getitem__(self, name: str) -> list[Any]:
        info = self._infos[name]
        assert info.cast is not None
        return [info.dtype, *_cast_facts(info.cast)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)


def _cast_facts(cast: Cast) -> list[Any]:
    decoding, encoding, view = cast.decoding, cast.encoding, cast.view
    facts: list[Any] = [
        cast.stored.dtype,
        decoding and decoding.format,
        [info.name for info in cast.companions],
    ]
    if encoding is not None:
        facts += [encoding.name, encoding.scales, encoding.role, list(encoding.shape)]
    if view is not None:
        facts += [cast.stored.name, view.start, list(view.strides)]
    if (encoding is not None or view is not None) and cast.stored.cast is not None:
        facts += _cast_facts(cast.stored.cast)
    return facts

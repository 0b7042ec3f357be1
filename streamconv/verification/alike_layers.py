"""Find the layers that load alike, so that a trial of loading needs one of each kind.

Two layers are alike if the checkpoint has the same tensors in them, but for the number in their
names, and the model the same keys. A layer with a damaged name, shape or dtype is like no other.
"""

from collections.abc import Iterable, Iterator, Mapping

from streamconv.checkpoint.tensor_names import layer_of
from streamconv.checkpoint.types import TensorInfo

Fact = tuple[str, object, tuple[int, ...]]
"""Name, dtype and shape of a tensor or a key."""


def layers_like_others(tensors: Iterable[TensorInfo], keys: Iterable[Fact]) -> Mapping[int, int]:
    """Return the numbers of the layers that are like another layer, each with the other's number.

    The other layer is the first of its kind. Layers that the model lacks are like no other, since a
    model may ignore the tensors of one of them. All lists of layers count together, as the
    model's may be called differently: two numbers are alike if they are in every list.

    Args:
        tensors: The tensors of the checkpoint.
        keys: The keys of the model.
    """
    facts: Iterable[Fact] = ((info.name, info.dtype, info.shape) for info in tensors)
    in_checkpoint, in_model = _by_layer(facts), _by_layer(keys)
    firsts: dict[tuple[frozenset[Fact], frozenset[Fact]], int] = {}
    like = {}
    for number, own in sorted(in_model.items()):
        kind = frozenset(in_checkpoint.get(number, ())), frozenset(own)
        first = firsts.setdefault(kind, number)
        if first != number:
            like[number] = first
    return like


def keys_like(keys: Iterable[str], like: Mapping[int, int]) -> Iterator[str]:
    """Yield the names that keys of a layer have in the layers that are like it.

    Args:
        keys: Keys of any layer.
        like: The numbers of layers that are like another, each with the other's number.
    """
    others: dict[int, list[int]] = {}
    for number, first in like.items():
        others.setdefault(first, []).append(number)
    for key in keys:
        layer = layer_of(key)
        if layer is not None:
            for other in others.get(layer[1], ()):
                yield _in_layer(key, *layer, str(other))


def number_of_layer(name: str) -> int | None:
    """Return the number of the layer that a tensor or key is in, or None."""
    layer = layer_of(name)
    return layer[1] if layer else None


def _by_layer(facts: Iterable[Fact]) -> dict[int, list[Fact]]:
    """Return the facts of the layers, by number. In their names, `*` is in place of the number."""
    layers: dict[int, list[Fact]] = {}
    for name, dtype, shape in facts:
        layer = layer_of(name)
        if layer is not None:
            layers.setdefault(layer[1], []).append((_in_layer(name, *layer, "*"), dtype, shape))
    return layers


def _in_layer(name: str, path: str, number: int, other: str) -> str:
    """Return a name with `other` for the number of its layer, which follows `path`.

    Names with `3` and with `03` stay different: only as many digits as `3` has are replaced.
    """
    return f"{path}{other}{name[len(path) + len(str(number)) :]}"

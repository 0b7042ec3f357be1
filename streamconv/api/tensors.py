"""The public function that converts tensors in memory."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from os import PathLike
from typing import TYPE_CHECKING, Any

from streamconv.api.option_docs import takes
from streamconv.errors import wrong_type

if TYPE_CHECKING:
    from torch import Tensor

    from streamconv.relaying.relay import Relay


@takes()
def relay(
    named_tensors: "Iterable[tuple[str, Tensor]]",
    *,
    to: str,
    config: "Mapping[str, Any] | str | PathLike[str] | Any",
    source: str | None = None,
    views: bool = False,
    max_open_layers: int = 1,
    family: str | PathLike[str] | None = None,
) -> "Relay":
    """Yield the tensors that a trainer emits in another layout, each as soon as it is complete.

    Values are never changed, and tensors stay on their device. At most `max_open_layers` layers are
    kept in memory: their gate, up and down projections, and other tensors that are joined.

    Args:
        named_tensors: Pairs of a name and a tensor of torch, in any order within a layer. A tensor
            must not change until the next pair is taken, and with `views` until its views are used.
        to: Form (`hub`, `transformers`, `mindspeed`), or a layout for every expert stack.
        config: Content of config.json, its path, or a config of transformers. It names the model
            type and counts the experts.
        source: Form or layout of the tensors. Default: detected from their names and shapes.
        views: True to yield views of the emitted tensors if possible, contiguous or not. A tensor
            that only gets another name is always yielded as it is.
        max_open_layers: How many layers may be incomplete at once, at least 1.
        family: TOML file with families, layouts and namings to use in addition to the built-in
            ones.

    Returns:
        An iterator over pairs of a name and a tensor. Its `held_bytes` and `peak_bytes` count what
        it keeps in memory.

    Raises:
        UsageError: An option makes no sense; or, while it is iterated, an item is not a pair of a
            name and a tensor.
        BadCheckpoint: While it is iterated: a tensor comes twice, contradicts others or the config,
            or is missing at the end.
        PlanRefused: The conversion is impossible; or, while it is iterated, more layers are
            incomplete than `max_open_layers`, or several layouts fit and `source` names none.
    """
    from streamconv.catalog.catalog import load_catalog
    from streamconv.relaying.headers import read_config
    from streamconv.relaying.relay import Relay
    from streamconv.relaying.request import RelayRequest

    pairs = _iterator(named_tensors)
    request = RelayRequest(source, to, read_config(config), views, max_open_layers)
    return Relay(pairs, request, load_catalog(family))


def _iterator(named_tensors: "Iterable[tuple[str, Tensor]]") -> "Iterator[tuple[str, Tensor]]":
    """Return an iterator over pairs. Raises TypeError for what has none, such as a mapping."""
    with suppress(TypeError):
        if not isinstance(named_tensors, Mapping | str):
            return iter(named_tensors)
    raise wrong_type("relay", "named_tensors", "an iterable of pairs", named_tensors)

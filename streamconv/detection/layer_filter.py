"""Selects the tensors of some of a checkpoint's layers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from streamconv.checkpoint.tensor_names import layer_of
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.layer_lists import LayerList


@dataclass(frozen=True, slots=True)
class LayerFilter:
    """Keeps the tensors of some layers, and all tensors that are in no layer.

    Only some lists of layers count: with experts below `model.layers.`, `visual.blocks.3.` is in
    no layer. All names are hub names.
    """

    paths: frozenset[str]
    """Paths of the lists of layers: `model.layers.`"""
    layers: range | None
    """Numbers of the layers to keep; None for all."""

    @classmethod
    def of(cls, lists: Iterable[LayerList], layers: range | None) -> "LayerFilter":
        """Build the filter for a checkpoint with these lists of layers."""
        return cls(frozenset(each.path for each in lists), layers)

    def keeps(self, hub_name: str) -> bool:
        """Return True if a tensor, or a module by its prefix, is kept."""
        if self.layers is None:
            return True
        number = self._number(hub_name)
        return number is None or number in self.layers

    def kept(self, hub_names: Mapping[str, TensorInfo]) -> Mapping[str, TensorInfo]:
        """Return the tensors that are kept: all of them as they are, if no layer is left out."""
        if self.layers is None:
            return hub_names
        return {name: info for name, info in hub_names.items() if self.keeps(name)}

    def keeps_no_layer(self, hub_names: Iterable[str]) -> bool:
        """Return True if there are layers, but none of them is kept."""
        if self.layers is None or not self.paths:
            return False
        numbers = map(self._number, hub_names)
        return not any(number is not None and number in self.layers for number in numbers)

    def _number(self, hub_name: str) -> int | None:
        """Return the number of the layer that a tensor is in, or None."""
        layer = layer_of(hub_name)
        return layer[1] if layer and layer[0] in self.paths else None

"""The lists of layers of a model: where their tensors are, and what config.json says of them.

A list of layers is all modules whose names differ only in their first number. Lists that hold
experts are known by their stacks. In a model without experts, the list is the one with as many
layers as the language model has by config.json: a vision tower has layers, too.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from streamconv.catalog.config_keys import config_keys
from streamconv.catalog.families import Family
from streamconv.checkpoint.config import config_value
from streamconv.checkpoint.tensor_names import layer_of


@dataclass(frozen=True, slots=True)
class LayerList:
    """A list of layers, in hub names."""

    path: str
    """The beginning of its tensors' names: `model.layers.`"""
    layers: int
    """The largest number of a layer in it, plus one."""
    section: str | None
    """Path of the section of config.json that describes it; None if no section does."""
    count: int | None = None
    """Number of layers according to that section."""
    after: int = 0
    """Number of further layers after those, such as of MTP, according to that section."""

    @property
    def is_counted(self) -> bool:
        """True if the section's number of layers is that of the list."""
        return self.count is not None and self.layers in (self.count, self.count + self.after)


def find_layer_lists(
    patterns: Iterable[str],
    hub_names: Iterable[str],
    config: Mapping[str, Any],
    family: Family | None,
) -> tuple[LayerList, ...]:
    """Return the lists of layers that a range of layers refers to.

    Args:
        patterns: The pattern of each stack of experts.
        hub_names: The names of all tensors.
        config: Content of config.json.
        family: The family of the model, which may name the section for a pattern.

    Returns:
        The lists that hold experts. If there are none, the only list with as many layers as
        config.json says, or the only list that there is. Empty if several lists fit equally well.
    """
    sizes = _sizes(hub_names)
    named = family.stacks if family else {}
    experts = {path: named.get(p) for p in patterns if (path := p.partition("*")[0]) in sizes}
    if experts:
        return tuple(_described(path, sizes[path], config, s) for path, s in experts.items())
    found = [_described(path, size, config, None) for path, size in sizes.items()]
    likely = [each for each in found if each.is_counted] or found
    return tuple(likely) if len(likely) == 1 else ()


def _sizes(hub_names: Iterable[str]) -> dict[str, int]:
    """Return the largest number of each list plus one, by its path."""
    sizes: dict[str, int] = {}
    # the names of a layer's thousand expert tensors all begin alike
    for prefix in dict.fromkeys(name.partition(".experts.")[0] for name in hub_names):
        layer = layer_of(f"{prefix}.")
        if layer is not None:
            sizes[layer[0]] = max(sizes.get(layer[0], 0), layer[1] + 1)
    return sizes


def _described(path: str, layers: int, config: Mapping[str, Any], section: str | None) -> LayerList:
    """Return a list with its section of config.json: the given one, else one whose count fits."""
    sections = config_keys().layer_sections if section is None else (section,)
    found = [
        LayerList(
            path, layers, section, count, _number(config, section, config_keys().layers_after)
        )
        for section in sections
        if (count := _number(config, section, config_keys().layer_counts))
    ]
    uncounted = found[0] if found else LayerList(path, layers, None)
    return next((each for each in found if each.is_counted), uncounted)


def _number(config: Mapping[str, Any], section: str, keys: Iterable[str]) -> int:
    """Return the first number above 0 that a section has under one of the keys, else 0."""
    values = (config_value(config, f"{section}.{key}") for key in keys)
    return next((value for value in values if type(value) is int and value > 0), 0)

"""The keys of config.json that describe the tensors: rows of `data/config_keys.toml`."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from streamconv.catalog.toml_tables import read_table


@dataclass(frozen=True, slots=True)
class ExceptionsRow:
    """How a quantization method lists the modules that are not quantized."""

    keys: tuple[str, ...]
    """The keys that such a list can have, the usual one first."""
    inside: str = ""
    """Pattern of the modules inside a listed module; empty if the module's name covers them."""


@dataclass(frozen=True, slots=True)
class ConfigKeys:
    """The keys, by what they describe. A section is a path of keys, separated by dots."""

    dtype: frozenset[str]
    dtype_names: Mapping[str, str]
    """Name of each dtype in config.json, by its name in safetensors."""
    quantization: frozenset[str]
    quantization_files: frozenset[str]
    """Files next to config.json that describe quantized weights."""
    exceptions: Mapping[str, ExceptionsRow]
    """By method, how it lists the modules that are not quantized."""
    layer_sections: tuple[str, ...]
    """Sections that may describe the language model, the most likely one first."""
    layer_counts: tuple[str, ...]
    layer_lists: tuple[str, ...]
    """Keys of lists and texts with an item for each layer."""
    layers_after: tuple[str, ...]
    """Keys that count layers after those of `layer_counts`."""


@functools.cache
def config_keys() -> ConfigKeys:
    """Return the keys of the table."""
    table = read_table("config_keys.toml")
    dtype, quantization, layers = table["dtype"], table["quantization"], table["layers"]
    return ConfigKeys(
        dtype=frozenset(dtype["keys"]),
        dtype_names=MappingProxyType(dtype["names"]),
        quantization=frozenset(quantization["keys"]),
        quantization_files=frozenset(quantization["files"]),
        exceptions=MappingProxyType(
            {
                method: ExceptionsRow(tuple(row["keys"]), row.get("inside", ""))
                for method, row in quantization["exceptions"].items()
            }
        ),
        layer_sections=tuple(layers["sections"]),
        layer_counts=tuple(layers["counts"]),
        layer_lists=tuple(layers["lists"]),
        layers_after=tuple(layers["after"]),
    )

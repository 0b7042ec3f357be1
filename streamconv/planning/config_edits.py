"""The edits of config.json for each cause, by the rows of `data/config_keys.toml`."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from streamconv.catalog.config_keys import config_keys
from streamconv.catalog.encodings import encoding_row
from streamconv.catalog.families import Form
from streamconv.checkpoint.casting import Casting
from streamconv.checkpoint.config import config_members, config_value
from streamconv.checkpoint.types import Checkpoint, TensorInfo
from streamconv.detection.layer_filter import LayerFilter
from streamconv.detection.layer_lists import LayerList
from streamconv.formats.json_edit import REMOVED, Edit, Path
from streamconv.quantization.quantized_config import (
    SECTION,
    dequantized_modules,
    quantized_section,
    with_exceptions,
)


def quantization_paths(config: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the path of each description of quantized weights."""
    for path, value in config_members(config):
        if path[-1] in config_keys().quantization and isinstance(value, Mapping):
            yield path


def written_tensors(
    hub_names: Mapping[str, TensorInfo], layer_filter: LayerFilter, names: Form
) -> Iterator[TensorInfo]:
    """Yield the tensors that are kept, under the output's names; experts are as in the source."""
    for hub_name, info in hub_names.items():
        if layer_filter.keeps(hub_name):
            yield info._replace(name=names.apply(hub_name))


def quantized_edits(
    checkpoint: Checkpoint, casting: Casting, written: Iterable[TensorInfo]
) -> Iterator[Edit]:
    """Yield the changes that make config.json describe what is quantized now, and nothing else."""
    if not checkpoint.config:
        return
    row = encoding_row(str(casting.quantize), casting.scale)
    for path in quantization_paths(checkpoint.config):
        if path != (SECTION,):
            yield Edit(path, REMOVED)
    yield Edit((SECTION,), quantized_section(row, written))


def exception_edits(checkpoint: Checkpoint, written: Iterable[TensorInfo]) -> Iterator[Edit]:
    """Yield the changes that add the dequantized modules to lists of unquantized modules."""
    modules = dequantized_modules(written)
    for path in quantization_paths(checkpoint.config):
        section = config_value(checkpoint.config, ".".join(path))
        changed = with_exceptions(section, modules)
        if changed is not None and changed != section:
            yield Edit(path, changed)


def dtype_edits(
    checkpoint: Checkpoint,
    lists: tuple[LayerList, ...],
    casting: Casting,
    stored: str | None,
) -> Iterator[Edit]:
    """Yield the changes of dtypes to the dtype `stored`, under its name in config.json.

    `--dtype` casts the whole model. Only the language model is ever quantized, so a dequantization
    changes the dtype in the sections that describe it, and in those around them.
    """
    dtype = config_keys().dtype_names.get(stored or "")
    sections = None if casting.dtype else _language_sections(lists)
    for path, value in config_members(checkpoint.config):
        is_dtype = path[-1] in config_keys().dtype and isinstance(value, str)
        is_in_section = sections is None or path[:-1] in sections
        if is_dtype and is_in_section and dtype is not None and value != dtype:
            yield Edit(path, dtype)


def _language_sections(lists: tuple[LayerList, ...]) -> frozenset[Path]:
    """Return the sections that describe the language model, and those around them."""
    named = {each.section for each in lists if each.section is not None}
    paths = [tuple(filter(None, name.split("."))) for name in named]
    return frozenset(path[:end] for path in [(), *paths] for end in range(len(path) + 1))


def layer_edits(
    config: Mapping[str, Any], lists: tuple[LayerList, ...], layers: range
) -> Iterator[Edit]:
    """Yield the changes of numbers of layers, and of lists with an item for each."""
    keys = config_keys()
    for each in lists:
        if each.section is None or each.count is None:
            continue
        kept = min(layers.stop, each.count)
        kept_after = max(min(layers.stop, each.layers) - each.count, 0)
        section = tuple(filter(None, each.section.split(".")))
        fields = config_value(config, each.section)
        for key, value in fields.items():
            if key in keys.layer_counts and value == each.count != kept:
                yield Edit((*section, key), kept)
            elif key in keys.layers_after and value == each.after != kept_after:
                if each.layers > each.count:
                    yield Edit((*section, key), kept_after)
            elif key in keys.layer_lists and isinstance(value, list | str):
                rest = len(value) - each.count
                if kept < each.count and rest in (0, each.after):
                    yield Edit((*section, key), value[: kept + min(rest, kept_after)])


def in_order_of_text(config: Mapping[str, Any], edits: Iterable[Edit]) -> list[Edit]:
    """Return the edits in the order of the keys in the file; of edits of one path, only the last.

    Two lists of layers may be described by the same section.
    """
    unique = {edit.path: edit for edit in edits}
    return sorted(unique.values(), key=lambda edit: _position(config, edit.path))


def _position(config: Mapping[str, Any], path: Path) -> list[int]:
    """Return a sort key for the order of the text."""
    position = []
    value: Any = config
    for key in path:
        keys = list(value)
        position.append(keys.index(key) if key in value else len(keys))
        value = value.get(key)
    return position

"""What the config.json of an output has to say, derived from the headers of the output.

The keys that a conversion may change are rows of a table. What they have to say follows from the
tensors that are there: their main dtype, their layers, and the presence of quantized ones.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from streamconv.catalog.companions import stem_of
from streamconv.catalog.config_keys import ConfigKeys, config_keys
from streamconv.catalog.encodings import encoding_row
from streamconv.checkpoint.casting import Casting
from streamconv.checkpoint.config import config_members
from streamconv.checkpoint.stored_dtypes import is_quantized
from streamconv.checkpoint.types import Checkpoint
from streamconv.detection.detect import Detected
from streamconv.detection.layer_lists import LayerList
from streamconv.quantization.quantized_config import SECTION
from streamconv.verification.quantized_section import Description, Modules, list_key

Path = tuple[str | int, ...]
"""The names of members, and numbers of items, on the way to a value."""


@dataclass(frozen=True, slots=True)
class ExceptionList:
    """A list of modules that are not quantized, which may be longer than that of the source."""

    key: str
    wanted: frozenset[str]
    """Modules that have to be in it, because a cast has dequantized them."""
    modules: Modules

    def allows(self, old: Mapping[str, Any], new: Any) -> bool:
        """Return True if `new` is the description `old` with a list that is longer as it may be."""
        if not isinstance(new, Mapping) or [*new] not in ([*old], [*old, self.key]):
            return False
        listed, before = new.get(self.key, []), old.get(self.key) or []
        if not isinstance(listed, list) or listed[: len(before)] != before:
            return False
        added = listed[len(before) :]
        fault = self.modules.fault_of_list(old.get("quant_method"), listed, added, self.wanted)
        return fault is None and all(new[key] == old[key] for key in old if key != self.key)


@dataclass(frozen=True, slots=True)
class ExpectedConfig:
    """What the output has to say."""

    dtype: str | None
    """The value of dtypes; None if none is changed."""
    dtype_sections: frozenset[Path] | None
    """The sections whose dtypes are changed; None for all."""
    quantization: bool
    """True if descriptions of quantized weights stay."""
    layers: tuple[tuple[Path, LayerList, int], ...]
    """Sections that count layers, with the list and the number of the first layer not kept."""
    section: Description | None = None
    """The new description of quantized weights; None if there is none."""
    exceptions: Mapping[Path, ExceptionList] = field(default_factory=dict)
    """Descriptions that stay, but with a longer list of exceptions."""

    @property
    def left_out(self) -> frozenset[str]:
        """Names of files that must not be in the output."""
        is_left = self.quantization and self.section is None
        return frozenset() if is_left else config_keys().quantization_files

    def replaces(self, path: Path) -> bool:
        """Return True if a path leads to a new or changed description, or through it."""
        if self.section is not None and path[:1] == (SECTION,):
            return True
        return any(path[: len(changed)] == changed for changed in self.exceptions)

    def value(self, path: Path, old: Any) -> Any:
        """Return the value that a member of the source's config has to have in the output."""
        keys = config_keys()
        section, key = path[:-1], path[-1]
        if any(isinstance(each, int) or each in keys.quantization for each in section):
            return old
        is_in_section = self.dtype_sections is None or section in self.dtype_sections
        if key in keys.dtype and isinstance(old, str) and is_in_section:
            return self.dtype or old
        for counting_section, layers, stop in self.layers:
            if counting_section == section:
                return _counted(keys, str(key), old, layers, stop)
        return old

    def removes(self, path: Path, config: Any) -> bool:
        """Return True if the value at a path of the source's config has to be gone."""
        if self.quantization and self.section is None:
            return False
        members = len(list(itertools.takewhile(lambda key: isinstance(key, str), path)))
        return any(
            path[end] in config_keys().quantization
            and isinstance(value_at(config, path[: end + 1]), dict)
            for end in range(members)
        )


AS_IN_SOURCE = ExpectedConfig(None, None, True, ())
"""Nothing is changed."""


def expected_config(
    source: Detected, stored: Checkpoint, found: Detected, output: Checkpoint, casting: Casting
) -> ExpectedConfig:
    """Return what config.json of `output` has to say.

    Args:
        source: What was detected in the source, with the casts of the output.
        stored: The source as it is stored.
        found: What was detected in the output.
        output: The checkpoint to verify.
        casting: The casts that it records.
    """
    undone = casting.dequantize is not None or stored.has_dequantized_template
    sections = [
        tuple(filter(None, each.section.split(".")))
        for each in source.layer_lists
        if each.section is not None
    ]
    around = {section[:end] for section in [(), *sections] for end in range(len(section) + 1)}
    kept = output.record.kept if output.record else None
    return ExpectedConfig(
        dtype=_main_dtype(output) if casting.dtype or undone else None,
        dtype_sections=None if casting.dtype else frozenset(around),
        quantization=not (undone or stored.format == "dcp")
        or any(map(is_quantized, output.tensors.values())),
        layers=tuple(
            (tuple(filter(None, each.section.split("."))), each, kept.stop)
            for each in source.layer_lists
            if kept is not None and kept.start == 0 and each.section is not None
        ),
        # without a config there is nothing to change, and none is made
        section=_section(output, casting) if stored.config else None,
        exceptions=_exceptions(source, stored, found, casting),
    )


def _exceptions(
    source: Detected, stored: Checkpoint, found: Detected, casting: Casting
) -> Mapping[Path, ExceptionList]:
    """Return the descriptions of a partly dequantized output whose lists have to be longer."""
    infos = list(found.hub_names.values())
    if casting.dequantize is None or casting.quantize is not None:
        return {}
    if not any(map(is_quantized, infos)):
        return {}
    modules = Modules.of(infos)
    wanted = set[str]()
    for hub_name, info in found.hub_names.items():
        before = source.hub_names.get(hub_name)
        if before is not None and before.cast is not None and before.cast.decoding is not None:
            wanted |= {stem_of(info.name)} & modules.others
    changed: dict[Path, ExceptionList] = {}
    for path, value in config_members(stored.config):
        if path[-1] in config_keys().quantization and isinstance(value, Mapping):
            key = list_key(value)
            listed = value.get(key) or [] if key is not None else None
            if key is not None and isinstance(listed, list):
                changed[path] = ExceptionList(key, frozenset(wanted), modules)
    return changed


def _section(output: Checkpoint, casting: Casting) -> Description | None:
    """Return the description that a quantized output has to have, from its tensors."""
    if casting.quantize is None:
        return None
    row = encoding_row(casting.quantize, casting.scale)
    return Description.of(row, output.tensors.values())


def _main_dtype(output: Checkpoint) -> str | None:
    """Return the name of the dtype that most elements of floating-point tensors have."""
    sizes = dict.fromkeys(config_keys().dtype_names, 0)
    for info in output.tensors.values():
        if info.dtype in sizes:
            sizes[info.dtype] += info.elements
    largest = max(sizes, key=lambda dtype: sizes[dtype])
    return config_keys().dtype_names[largest] if sizes[largest] else None


def _counted(keys: ConfigKeys, key: str, old: Any, layers: LayerList, stop: int) -> Any:
    """Return the value that a key has to have if it counts the layers, or has an item for each."""
    count, after = layers.count or 0, layers.after
    left, left_after = min(count, stop), min(max(stop - count, 0), layers.layers - count)
    if key in keys.layer_counts and old == count:
        return left
    if key in keys.layers_after and old == after and layers.layers > count:
        return left_after
    if key in keys.layer_lists and isinstance(old, list | str) and left < count:
        return old[:left] if len(old) in (count, count + after) else old
    return old


def value_at(config: Any, path: Path) -> Any:
    """Return the value at a path of a config."""
    for key in path:
        config = config[key]
    return config

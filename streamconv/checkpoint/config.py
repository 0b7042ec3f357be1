"""Values in the config.json of a checkpoint, which is untrusted: any of them may be anything."""

from collections.abc import Iterator, Mapping
from typing import Any

from streamconv.catalog.config_keys import config_keys

MAX_DEPTH = 32
"""No section of a config is nested deeper."""


def config_value(config: Mapping[str, Any], path: str) -> Any:
    """Return the value at a path of keys, separated by dots; None if there is none.

    The empty path is the whole config.
    """
    value: Any = config
    for key in filter(None, path.split(".")):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def block_from_config(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the rows and columns that one scale covers, or None if the config does not say.

    Read from `quantization_config.weight_block_size`, of the config or of one of its sections.
    """
    for section in (config, *config.values()):
        quantization = section.get("quantization_config") if isinstance(section, Mapping) else None
        block = quantization.get("weight_block_size") if isinstance(quantization, Mapping) else None
        if isinstance(block, list) and len(block) == 2 and all(type(n) is int for n in block):
            return (block[0], block[1]) if min(block) > 0 else None
    return None


def config_members(config: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every member of a config and of its sections, with its path, in order.

    The description of quantized weights counts as a member, not as a section.
    """
    pending: list[tuple[tuple[str, ...], Any]] = []
    pending += [((key,), each) for key, each in config.items()][::-1]
    while pending:
        path, value = pending.pop()
        yield path, value
        is_section = isinstance(value, Mapping) and path[-1] not in config_keys().quantization
        if is_section and len(path) < MAX_DEPTH:
            pending += [((*path, key), each) for key, each in value.items()][::-1]

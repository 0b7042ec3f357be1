"""Values in the config.json of a checkpoint. It is untrusted: each may be any JSON value."""

from collections.abc import Iterator, Mapping
from typing import Any

from streamconv.catalog.config_keys import config_keys

TEXT_SECTIONS = ("", "text_config", "llm_config", "language_config")
"""Sections that may describe the language model of a model; "" is the top level."""
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

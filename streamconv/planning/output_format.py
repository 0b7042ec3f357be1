"""Find the file format of the output: safetensors, or a DCP with its prefixes and preset."""

from collections.abc import Callable, Mapping
from typing import Any

from streamconv.catalog.families import HUB_NAMES
from streamconv.catalog.layouts import PER_EXPERT
from streamconv.catalog.presets import Prefixes
from streamconv.checkpoint.layout_record import Record
from streamconv.checkpoint.types import Checkpoint
from streamconv.errors import UsageError, quoted
from streamconv.options import Options, check_prefixes, prefixes_of, preset_of
from streamconv.planning.safetensors_shards import Safetensors
from streamconv.planning.shards import ShardFormat


def shard_format(
    checkpoint: Checkpoint, config: Mapping[str, Any], to: str | None, options: Options
) -> Callable[[Record], ShardFormat]:
    """Return the format of the output, as a function of its record.

    `config` is the content of the output's config.json. A preset means DCP, unless the target is
    the hub's layout.
    """
    preset = preset_of(options)
    name = options.get("format")
    if name is None:
        name = "dcp" if preset and to not in (PER_EXPERT, HUB_NAMES.name) else "safetensors"
    check_prefixes(options, checkpoint.format, name)
    if name == "safetensors":
        return Safetensors
    if name != "dcp":
        raise UsageError(
            f"there is no format called {quoted(repr(name))}", "choose safetensors or dcp"
        )
    from streamconv.planning.dcp_shards import Dcp

    prefixes = prefixes_of(options) or Prefixes()
    return lambda _: Dcp(prefixes, preset, config)

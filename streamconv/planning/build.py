"""From a source and the options that a user gives to a plan."""

import sys
from collections.abc import Callable

from streamconv.catalog.catalog import Catalog
from streamconv.catalog.families import HUB_NAMES
from streamconv.catalog.presets import Prefixes
from streamconv.checkpoint.casting import cast_checkpoint, parse_casting
from streamconv.checkpoint.layout_record import Record
from streamconv.checkpoint.types import Checkpoint
from streamconv.detection.detect import detect
from streamconv.errors import UsageError
from streamconv.options import (
    DEFAULT_JOBS,
    DEFAULT_SHARD_SIZE,
    Options,
    check_prefixes,
    parse_layers,
    prefixes_of,
    preset_of,
)
from streamconv.planning.memory import IMPORT_BYTES, RANKS_BYTES, REMOTE_JOBS, Limits
from streamconv.planning.plan import Plan, make_plan
from streamconv.planning.safetensors_shards import Safetensors
from streamconv.planning.shards import ShardFormat
from streamconv.planning.target import PER_EXPERT, merge_target, resolve_target
from streamconv.system.launcher import rank, ranks_on_host
from streamconv.system.resources import (
    cores,
    default_max_memory,
    peak_bytes,
    resident_bytes,
)
from streamconv.units import parse_size


def build_plan(checkpoint: Checkpoint, catalog: Catalog, to: str | None, options: Options) -> Plan:
    """The plan of converting `checkpoint` to `to`, or to what merging makes of it.

    Raises UsageError for options that mean nothing, and what planning raises.
    """
    casting = parse_casting(
        options.get("dtype"), options.get("dequantize"), options.get("cast_all", False)
    )
    pass_through = options.get("pass_through", False)
    found = detect(
        cast_checkpoint(checkpoint, casting),
        catalog,
        options.get("source_layout"),
        pass_through=pass_through,
    )
    asked, why = merge_target(found) if to is None else (to, "as asked")
    max_memory, layers = options.get("max_memory"), options.get("layers")
    jobs = options.get("jobs")
    if jobs is not None and jobs < 1:
        raise UsageError(f"{jobs} workers cannot do anything", "give at least 1")
    beside = ranks_on_host()
    here = max(cores() // beside, 1)
    jobs = jobs or (REMOTE_JOBS if checkpoint.remote else min(here, DEFAULT_JOBS))
    return make_plan(
        checkpoint,
        found,
        resolve_target(found, asked, why, pass_through=pass_through),
        max_shard_bytes=parse_size(options.get("max_shard_size", DEFAULT_SHARD_SIZE)),
        limits=Limits(
            base=_base_memory(),
            jobs=jobs,
            allowed=parse_size(max_memory) if max_memory else default_max_memory(beside),
        ),
        layers=parse_layers(layers) if layers else None,
        shard_format=_written(checkpoint, to, options),
        casting=casting,
    )


def _written(
    checkpoint: Checkpoint, to: str | None, options: Options
) -> Callable[[Record], ShardFormat]:
    """The format of the output; a preset means DCP unless the target is the hub's layout."""
    preset = preset_of(options)
    name = options.get("format")
    if name is None:
        name = "dcp" if preset and to not in (PER_EXPERT, HUB_NAMES.name) else "safetensors"
    check_prefixes(options, checkpoint.format, name)
    if name == "safetensors":
        return Safetensors
    if name != "dcp":
        raise UsageError(f"there is no format called {name!r}", "the formats are safetensors, dcp")
    from streamconv.planning.dcp_shards import Dcp

    prefixes = prefixes_of(options) or Prefixes()
    return lambda _: Dcp(prefixes, preset, checkpoint.config)


def _base_memory() -> int:
    """What this process will hold when a run begins, or has held already."""
    meeting = 0
    if rank() is not None:
        import torch.distributed  # noqa: F401 - that by which ranks meet, in a dry run too

        meeting = RANKS_BYTES
    imported = "streamconv.execution.executor" in sys.modules
    return max(peak_bytes(), resident_bytes() + (0 if imported else IMPORT_BYTES)) + meeting

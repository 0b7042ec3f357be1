"""The options of a source and a conversion, for Python and the command line alike."""

import re
from os import PathLike
from typing import TypedDict

from streamconv.catalog.presets import Prefixes, Preset, find_preset
from streamconv.errors import UsageError, quoted

Location = str | PathLike[str]
"""A folder, a repository of the hub (`hf://org/name@revision`), or a URL that fsspec opens."""

DEFAULT_SHARD_SIZE = "4GB"
DEFAULT_JOBS = 2
"""Two workers rearrange about 5 GB/s, more than most disks write."""
MAX_JOBS = 1024
"""The largest number of workers. Each has a thread and buffers of its own."""
MAX_LAYERS = 10**9
"""More layers than any model has."""
_LAYERS = re.compile(r"(?P<only>[0-9]{1,9})|(?P<begin>[0-9]{0,9}):(?P<end>[0-9]{0,9})")


class Reading(TypedDict, total=False):
    """Options for reading a source that does not describe itself."""

    source_layout: str | None
    """The layout or form that it has (`--from`)."""
    preset: str | None
    """A training framework whose DCP is read or written, such as `mindspeed`."""
    hf_prefix: str | None
    """What names begin with outside of a DCP whose keys begin with `dcp_prefix`."""
    dcp_prefix: str | None
    family: str | PathLike[str] | None
    """A file of families, layouts and namings to add to the shipped tables for this call."""
    template: Location | None
    """The hub checkpoint that a DCP was trained from: its config, its other files, its names."""
    fill_from_template: bool
    """Whether to take from there what the DCP lacks."""


class Options(Reading, total=False):
    """Options of every conversion."""

    max_shard_size: int | str
    """Bytes, or text such as `4GB` or `4GiB`; a larger tensor gets a shard of its own."""
    max_memory: int | str | None
    """What the whole process may hold; what the host has free unless given."""
    jobs: int | None
    """Workers."""
    part: str | None
    """`2/4`: only the second of four parts, which `finish` puts together when all are done."""
    max_rate: int | str | None
    """Bytes a second that are read at most, or text such as `200MB/s`.

    Of all ranks that torchrun has started together; of each `part` by itself.
    """
    layers: str | None
    """Only these layers, as `0:2`, and what belongs to no layer."""
    format: str | None
    """What the output is written in: `safetensors`, or `dcp` for torch.distributed.checkpoint."""
    dtype: str | None
    """`bf16`, `fp16` or `fp32`: what floating tensors become, routers and norms excepted."""
    cast_all: bool
    """Whether `dtype` is for routers, their biases and norms as well."""
    dequantize: str | None
    """What block-scaled FP8 weights become, their scales used up."""
    pass_through: bool
    """Whether experts that cannot be converted stay as they are, instead of being refused."""
    sha256: bool
    """Whether the manifest has the SHA-256 of each file too, for which they are read once more."""


def preset_of(options: Reading) -> Preset | None:
    """Return the preset of the options, or None. Raises UsageError if it does not exist."""
    name = options.get("preset")
    return find_preset(name) if name else None


def prefixes_of(options: Reading) -> Prefixes | None:
    """Return the prefixes of keys, or None if neither prefix nor preset is given."""
    preset = preset_of(options)
    hf, dcp = options.get("hf_prefix"), options.get("dcp_prefix")
    if hf is None and dcp is None and preset is None:
        return None
    return Prefixes(hf or "", (preset.dcp_prefix if preset else "") if dcp is None else dcp)


def check_prefixes(options: Reading, *formats: str) -> None:
    """Refuse prefixes of DCP keys if no DCP is read or written.

    Args:
        options: The options that may have prefixes.
        formats: The formats that are read and written.

    Raises:
        UsageError: A prefix is given, and "dcp" is not among the formats.
    """
    said = [
        f"--{name.replace('_', '-')}"
        for name in ("hf_prefix", "dcp_prefix")
        if options.get(name) is not None
    ]
    if said and "dcp" not in formats:
        raise UsageError(
            f"{' and '.join(said)}: there is no DCP here whose keys could begin with anything",
            "leave it out; --format dcp writes a DCP",
        )


def parse_layers(text: str) -> range:
    """Return the layers in `0:2` (0 and 1), `:2` or `3`. Raises UsageError."""
    match = _LAYERS.fullmatch(text)
    if match is not None:
        first = int(match["begin"] or match["only"] or 0)
        last = first + 1 if match["only"] else int(match["end"] or MAX_LAYERS)
        if first < last:
            return range(first, last)
    raise UsageError(
        f"{quoted(repr(text))} is no range of layers", "write 0:2 for the layers 0 and 1"
    )


def check_jobs(jobs: int | None) -> None:
    """Refuse a number of workers below 1 or above MAX_JOBS. Raises UsageError."""
    if jobs is None or 1 <= jobs <= MAX_JOBS:
        return
    limit = "at least 1" if jobs < 1 else f"at most {MAX_JOBS}"
    # Python does not convert numbers of more than 4300 digits to text
    got = f", got {jobs}" if abs(jobs) < MAX_LAYERS else ""
    raise UsageError(f"jobs must be {limit}{got}", f"give a number from 1 to {MAX_JOBS}")

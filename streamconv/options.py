"""The options of a source and a conversion, for Python and the command line alike."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TypedDict

from streamconv.catalog.presets import Prefixes, Preset, find_preset
from streamconv.errors import UsageError, quoted

Location = str | PathLike[str]
"""A folder, a repository of the hub (`hf://org/name@revision`), or a URL that fsspec opens."""

DEFAULT_SHARD_SIZE = "4GB"
DEFAULT_JOBS = 2
"""Number of workers that a conversion may have by default however small the host's memory is, and
number of threads that fill a state dict. Two workers rearrange about 5 GB/s, more than most disks
write."""
MAX_JOBS = 1024
"""The largest number of workers. Each has a thread and buffers of its own."""
MAX_LAYERS = 10**9
"""More layers than any model has."""
_LAYERS = re.compile(r"(?P<only>[0-9]{1,9})|(?P<begin>[0-9]{0,9}):(?P<end>[0-9]{0,9})")


class Reading(TypedDict, total=False):
    """Options for reading a source. `api.option_docs` has what `help` says of each."""

    source_layout: str | None
    """Layout or form of the source (`--from`), if the source does not record its own."""
    preset: str | None
    """Training framework whose DCP is read or written: `mindspeed`."""
    hf_prefix: str | None
    """Prefix of tensor names outside of a DCP. In its keys, `dcp_prefix` takes its place."""
    dcp_prefix: str | None
    """Prefix of keys in a DCP."""
    family: str | PathLike[str] | None
    """TOML file with families, layouts and namings to add to the shipped tables."""
    template: Location | None
    """Hub checkpoint that a DCP was trained from. It supplies config.json and the other files."""
    fill_from_template: bool
    """True to take the tensors that the DCP lacks from `template`."""
    add_unlisted: bool
    """True to read the files of tensors that the index leaves out, too."""
    rename: Sequence[str] | None
    """Renames of the source's tensors, each as `OLD=NEW`, before anything is detected."""


class LazyOptions(Reading, total=False):
    """Options that say which tensors a conversion makes."""

    layers: str | None
    """Layers to convert, as `0:2`. Tensors outside of layers are always converted."""
    dtype: str | None
    """`bf16`, `fp16` or `fp32` to cast floating-point tensors, except for routers and norms."""
    cast_all: bool
    """True to let `dtype` cast routers, their biases and norms, too."""
    dequantize: str | None
    """Dtype to dequantize quantized weights to. Their scales are dropped."""
    quantize: str | None
    """Format to quantize experts and linear layers to: `fp8-block`, `fp8-channel`, `int4-g32`
    or `mxfp4`."""
    scale: str | None
    """Scales of `quantize="fp8-block"`: `f32`, or `ue8m0` for powers of two."""
    only: str | Sequence[str]
    """Weights to quantize or dequantize: names with * for any text, or the number formats that
    they have. Default: all."""
    skip: str | Sequence[str]
    """Weights that stay as they are: names with * for any text, or number formats."""
    pass_through: bool
    """True to copy experts that cannot be converted, instead of raising PlanRefused."""


class Options(LazyOptions, total=False):
    """Options of every conversion."""

    max_shard_size: int | str | None
    """Bytes of tensors in a shard, or text such as `4GB`. A larger tensor gets its own shard."""
    max_memory: int | str | None
    """Memory limit of the whole process, in bytes or as text. Default: by the free memory."""
    jobs: int | None
    """Number of workers."""
    part: str | None
    """`2/4` to write only the second of four parts. After all parts, `finish` commits them."""
    max_rate: int | str | None
    """Read limit in bytes a second, or text such as `200MB/s`.

    All ranks of a torchrun share it; each `part` has its own.
    """
    format: str | None
    """Output format: `safetensors`, or `dcp` for torch.distributed.checkpoint."""
    keep_config: bool
    """True to copy config.json as it is, even if it does not describe the output."""
    copy: bool
    """True to copy a checkpoint that already is what was asked for."""
    sha256: bool
    """True to record the SHA-256 of each file in the manifest. Reads each file again."""


@dataclass(frozen=True, slots=True)
class Opening:
    """How the files of a source are opened."""

    prefixes: Prefixes | None = None
    """Prefixes of the keys of a DCP; None to use those that the DCP records."""
    add_unlisted: bool = False
    """True to read the files of tensors that the index leaves out, too."""
    lenient: bool = False
    """True to list contradictions between files in the checkpoint instead of raising them."""


def opening_of(options: Reading, *, lenient: bool = False) -> Opening:
    """Return how the options open a source. Raises UsageError for an unknown preset."""
    return Opening(prefixes_of(options), options.get("add_unlisted", False), lenient)


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
    given = [
        f"--{name.replace('_', '-')}"
        for name in ("hf_prefix", "dcp_prefix")
        if options.get(name) is not None
    ]
    if given and "dcp" not in formats:
        raise UsageError(
            f"cannot use {' and '.join(given)}: no DCP is read or written",
            "leave it out, or add --format dcp to write a DCP",
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
        f"cannot read the layers {quoted(repr(text))}: they are not a range",
        "write 0:2 for the layers 0 and 1",
    )


def check_jobs(jobs: int | None) -> None:
    """Refuse a number of workers below 1 or above MAX_JOBS. Raises UsageError."""
    if jobs is None or 1 <= jobs <= MAX_JOBS:
        return
    # Python does not convert integers of more than 4300 digits to text
    number = f"{jobs}" if abs(jobs) < 10**9 else "so many"
    raise UsageError(f"cannot start {number} workers: jobs must be from 1 to {MAX_JOBS}")

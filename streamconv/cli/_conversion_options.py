"""The options that merge, split and convert have in common."""

from collections.abc import Callable
from typing import Any

from streamconv.catalog.encodings import encoding_names
from streamconv.cli._choice import Word
from streamconv.cli._options import (
    READING,
    Command,
    jobs_option,
    json_option,
    no_progress_option,
    option,
    quiet_option,
    verbose_option,
    verify_option,
    with_options,
)

_CONVERSION: tuple[Callable[[Any], Any], ...] = (
    option(
        "-n", "--dry-run", group="output", is_flag=True, help="Show the plan and write nothing."
    ),
    json_option,
    *READING,
    option(
        "--max-shard-size",
        group="output",
        metavar="SIZE",
        help="Split the output into files of this size; 4GB is 4*10^9 bytes, 4GiB is 4*2^30.  "
        "[default: 4GB]",
    ),
    option(
        "--max-memory",
        group="resources",
        metavar="SIZE",
        help="Limit the memory of the process. Lowers the number of workers to stay below the "
        "limit; refuses to start if one worker needs more.  [default: the free memory of the host "
        "or its cgroup]",
    ),
    jobs_option,
    option(
        "--part",
        group="output",
        metavar="K/N",
        help="Write only the K-th of N parts; `streamconv finish` commits DST after all of them.",
    ),
    option(
        "--max-rate",
        group="resources",
        metavar="RATE",
        help="Read at most this much, such as 200MB/s; the ranks of a run share the limit.",
    ),
    option(
        "--rate",
        group="resources",
        metavar="RATE",
        help="Estimate the duration at this rate, with --dry-run.",
    ),
    option(
        "--pass-through",
        group="layout",
        is_flag=True,
        help="Copy experts that cannot be converted, and name them in the plan.",
    ),
    option(
        "--layers",
        group="layout",
        metavar="A:B",
        help="Convert only layers A to B-1, and the tensors outside of layers.",
    ),
    option(
        "--format",
        group="output",
        type=Word("safetensors", "dcp"),
        help="Write this format; dcp is for torch.distributed.checkpoint.  [default: safetensors]",
    ),
    option(
        "--dtype",
        group="number formats",
        type=Word("bf16", "fp16", "fp32"),
        help="Cast floating-point tensors to this dtype, except for routers, their biases and "
        "norms, and tensors that transformers keeps in fp32.",
    ),
    option(
        "--cast-all",
        group="number formats",
        is_flag=True,
        help="Let --dtype cast the excepted tensors, too.",
    ),
    option(
        "--dequantize",
        group="number formats",
        type=Word("bf16", "fp16", "fp32"),
        help="Dequantize quantized weights to this dtype and drop their scales.",
    ),
    option(
        "--quantize",
        group="number formats",
        type=Word(*encoding_names()),
        help="Quantize the experts and the linear layers of transformer blocks to this format.",
    ),
    option(
        "--scale",
        group="number formats",
        type=Word("f32", "ue8m0"),
        help="Give --quantize fp8-block these scales; ue8m0 are powers of two.  [default: f32]",
    ),
    option(
        "--only",
        group="number formats",
        metavar="NAME",
        multiple=True,
        help="Quantize or dequantize only the weights with this name, in which * is any text, or "
        "dequantize only those in this number format. May be repeated.",
    ),
    option(
        "--except",
        "skip",
        group="number formats",
        metavar="NAME",
        multiple=True,
        help="Leave the weights with this name, or in this number format, as they are. May be "
        "repeated.",
    ),
    option(
        "--overwrite",
        group="output",
        is_flag=True,
        help="Replace DST after its replacement is complete, if DST holds nothing but a "
        "checkpoint; --dry-run lists the files that are removed.",
    ),
    option(
        "--resume",
        group="output",
        is_flag=True,
        help="Resume an earlier run of this conversion, if there was one.",
    ),
    option(
        "--keep-config",
        group="output",
        is_flag=True,
        help="Copy config.json as it is. By default, the keys that the conversion makes untrue are "
        "changed.",
    ),
    option(
        "--copy",
        group="output",
        is_flag=True,
        help="Copy SRC if it is already what was asked for.",
    ),
    option(
        "--sha256",
        group="verification",
        is_flag=True,
        help="Record the SHA-256 of each file in the manifest, as the hub shows it.",
    ),
    verify_option,
    quiet_option,
    verbose_option(
        "Show every layer and shard of the plan, and name each shard that a run has written or "
        "compared."
    ),
    no_progress_option,
)


def conversion_options(command: Command) -> Command:
    """Add the options that merge, split and convert have in common."""
    return with_options(_CONVERSION, command)

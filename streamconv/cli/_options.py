"""The options that verbs share, each with its variable in the environment."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from streamconv.catalog.encodings import encoding_names
from streamconv.cli._choice import Number, Word
from streamconv.cli._completion import complete_preset, complete_source
from streamconv.cli._verb import Group, GroupedOption
from streamconv.options import MAX_JOBS

Command = TypeVar("Command", bound=Callable[..., Any])

PREFIX = "STREAMCONV_"


def option(*names: str, group: Group, **settings: Any) -> Callable[[Command], Command]:
    """Build a click option that can also be set in the environment.

    For example, `--max-rate` by STREAMCONV_MAX_RATE, for every verb that has it. The help lists the
    option in its group.
    """
    long = next(name for name in names if name.startswith("--"))
    variable = PREFIX + long.removeprefix("--").replace("-", "_").upper()
    return click.option(*names, cls=GroupedOption, envvar=variable, group=group, **settings)


source_argument = click.argument("src", type=click.Path())
target_argument = click.argument("dst", type=click.Path())

json_option = option(
    "--json",
    "as_json",
    group="display",
    is_flag=True,
    help="Print JSON on stdout, and everything else on stderr.",
)
jobs_option = option(
    "-j",
    "--jobs",
    group="resources",
    type=Number(1, MAX_JOBS),
    metavar="N",
    help="Run N workers.  [default: one for each core, at most 8; the plan says why]",
)
verify_option = option(
    "--verify",
    group="verification",
    is_flag=True,
    help="Verify the result against SRC before moving it to DST.",
)
quiet_option = option("-q", "--quiet", group="display", is_flag=True, help="Print errors only.")
no_progress_option = option(
    "--no-progress", group="display", is_flag=True, help="Show no progress on stderr."
)


def verbose_option(help: str) -> Callable[[Command], Command]:  # noqa: A002 - click's own name
    """Build the option `-v` of a verb; `help` says what it shows."""
    return option("-v", "--verbose", group="display", is_flag=True, help=help)


_READING: tuple[Callable[[Any], Any], ...] = (
    option(
        "--from",
        "source_layout",
        group="layout",
        metavar="LAYOUT",
        shell_complete=complete_source,
        help="Layout or form of SRC, if SRC does not record its own.",
    ),
    option(
        "--preset",
        group="DCP",
        metavar="NAME",
        shell_complete=complete_preset,
        help="Read or write a DCP as this training framework does: mindspeed.",
    ),
    option(
        "--hf-prefix",
        group="DCP",
        metavar="A",
        help="Prefix of tensor names that --dcp-prefix replaces in the keys of a DCP.  "
        "[default: empty]",
    ),
    option(
        "--dcp-prefix",
        group="DCP",
        metavar="B",
        help="Prefix of keys in a DCP.  [default: that of --preset, else empty]",
    ),
    option(
        "--family",
        group="layout",
        metavar="FILE",
        type=click.Path(),
        help="Add the families, layouts and namings of this TOML file to the built-in ones.",
    ),
    option(
        "--template",
        group="DCP",
        type=click.Path(),
        metavar="HF_DIR",
        help="Take config.json and the other files of a DCP from this hub checkpoint, and compare "
        "the tensors of both.",
    ),
    option(
        "--fill-from-template",
        group="DCP",
        is_flag=True,
        help="Take the tensors that the DCP lacks from --template.",
    ),
    option(
        "--add-unlisted",
        group="layout",
        is_flag=True,
        help="Add the tensors of *.safetensors files that the index of SRC leaves out.",
    ),
    option(
        "--rename",
        group="layout",
        metavar="OLD=NEW",
        multiple=True,
        help="Replace OLD by NEW in the tensor names of SRC, wherever it is, before anything is "
        "detected; a * in both is the same text. Give it several times for several renames, which "
        "are done in order.",
    ),
)

_CONVERSION: tuple[Callable[[Any], Any], ...] = (
    option(
        "-n", "--dry-run", group="output", is_flag=True, help="Show the plan and write nothing."
    ),
    json_option,
    *_READING,
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
        "limit; refuses to start if one worker needs more.  [default: what the host or its cgroup "
        "has free]",
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
        "norms, and for what transformers keeps in fp32.",
    ),
    option(
        "--cast-all",
        group="number formats",
        is_flag=True,
        help="Let --dtype cast routers and these others, too.",
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
        help="Quantize or dequantize only the weights of this name, with * for any text; "
        "dequantize only those of this number format. May be repeated.",
    ),
    option(
        "--except",
        "skip",
        group="number formats",
        metavar="NAME",
        multiple=True,
        help="Leave the weights of this name, or of this number format, as they are. May be "
        "repeated.",
    ),
    option(
        "--overwrite",
        group="output",
        is_flag=True,
        help="Replace DST after its replacement is complete, if all that is in DST is a "
        "checkpoint's; --dry-run lists what is removed.",
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


def reading_options(command: Command) -> Command:
    """Add the options that describe a source."""
    return _with(_READING, command)


def conversion_options(command: Command) -> Command:
    """Add the options that merge, split and convert have in common."""
    return _with(_CONVERSION, command)


def _with(options: tuple[Callable[[Any], Any], ...], command: Command) -> Command:
    """Add options so that help lists them in their order."""
    for add in reversed(options):
        command = add(command)
    return command

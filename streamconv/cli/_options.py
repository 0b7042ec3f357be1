"""The options that verbs share, each with its variable in the environment."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

PREFIX = "STREAMCONV_"


def option(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """A click option that also comes from the environment, without the verb in its name."""
    long = next(name for name in names if name.startswith("--"))
    variable = PREFIX + long.removeprefix("--").replace("-", "_").upper()
    return click.option(*names, envvar=variable, **settings)


def source_argument(command: Command) -> Command:
    return click.argument("src", type=click.Path())(command)


def target_argument(command: Command) -> Command:
    return click.argument("dst", type=click.Path())(command)


from_option = option(
    "--from",
    "source_layout",
    metavar="LAYOUT",
    help="Layout or form of the source, where it does not say so itself.",
)
json_option = option(
    "--json", "as_json", is_flag=True, help="Print JSON on stdout; everything else on stderr."
)

_READING: tuple[Callable[[Any], Any], ...] = (
    from_option,
    option(
        "--preset",
        metavar="NAME",
        help="Read or write DCP as this training framework has it: mindspeed.",
    ),
    option("--hf-prefix", metavar="A", help="Names that begin with A ...  [default: any]"),
    option("--dcp-prefix", metavar="B", help="... begin with B in a DCP.  [default: nothing]"),
    option(
        "--family",
        metavar="FILE",
        type=click.Path(exists=True, dir_okay=False),
        help="Families, layouts and namings besides those of the table, as TOML.",
    ),
    option(
        "--template",
        type=click.Path(),
        metavar="HF_DIR",
        help="Take config and other files of a DCP from here, and compare its tensors.",
    ),
    option(
        "--fill-from-template", is_flag=True, help="Take the tensors that the DCP lacks from there."
    ),
)
jobs_option = option(
    "-j",
    "--jobs",
    type=click.IntRange(1),
    metavar="N",
    help="Workers.  [default: 2; 8 over a network]",
)
verify_option = option(
    "--verify", is_flag=True, help="Hold every byte against SRC before it is DST."
)
quiet_option = option("-q", "--quiet", is_flag=True, help="Print errors only.")
no_progress_option = option("--no-progress", is_flag=True, help="Show no progress on stderr.")

_CONVERSION: tuple[Callable[[Any], Any], ...] = (
    option("-n", "--dry-run", is_flag=True, help="Show the plan and write nothing."),
    json_option,
    *_READING,
    option(
        "--max-shard-size",
        metavar="SIZE",
        default="4GB",
        show_default=True,
        help="Cut the output into files of this size; 4GB is 4*10^9 bytes, 4GiB 4*2^30.",
    ),
    option(
        "--max-memory",
        metavar="SIZE",
        help="What the whole process may hold.  [default: what the host or its cgroup has free]",
    ),
    jobs_option,
    option("--part", metavar="K/N", help="Make the K-th of N parts only; `finish` closes DST."),
    option(
        "--max-rate",
        metavar="RATE",
        help="Read no more than this, such as 200MB/s, all ranks of a run together.",
    ),
    option("--rate", metavar="RATE", help="With --dry-run: how long the run takes at this rate."),
    option(
        "--pass-through",
        is_flag=True,
        help="Leave experts that cannot be converted as they are, and name them in the plan.",
    ),
    option("--layers", metavar="A:B", help="Only layers A to B-1, and what is in no layer."),
    option(
        "--format",
        type=click.Choice(["safetensors", "dcp"]),
        help="Write this: dcp is for torch.distributed.checkpoint.  [default: safetensors]",
    ),
    option(
        "--dtype",
        type=click.Choice(["bf16", "fp16", "fp32"]),
        help="Cast floating tensors, but for routers, their biases and norms.",
    ),
    option("--cast-all", is_flag=True, help="Let --dtype cast routers and norms as well."),
    option(
        "--dequantize",
        type=click.Choice(["bf16", "fp16", "fp32"]),
        help="Make block-scaled FP8 weights this, their scales used up.",
    ),
    option("--overwrite", is_flag=True, help="Replace DST, once its replacement is complete."),
    option("--resume", is_flag=True, help="Go on where an earlier run was stopped, if one was."),
    option("--sha256", is_flag=True, help="Note the SHA-256 of each file, as the hub shows it."),
    verify_option,
    quiet_option,
    option("-v", "--verbose", is_flag=True, help="Show every layer and shard of the plan."),
    no_progress_option,
)


def reading_options(command: Command) -> Command:
    """Everything that says how a source is to be understood."""
    return _with(_READING, command)


def conversion_options(command: Command) -> Command:
    """Everything that merge, split and convert have in common."""
    return _with(_CONVERSION, command)


def _with(options: tuple[Callable[[Any], Any], ...], command: Command) -> Command:
    for add in reversed(options):
        command = add(command)
    return command

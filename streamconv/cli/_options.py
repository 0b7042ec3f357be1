"""The options that verbs share, each with its variable in the environment."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from streamconv.cli._choice import Number
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


READING: tuple[Callable[[Any], Any], ...] = (
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
        help="Replace every OLD in the tensor names of SRC by NEW, before anything is detected; a "
        "* in both means the same text. May be repeated; renames are done in order.",
    ),
)


def reading_options(command: Command) -> Command:
    """Add the options that describe a source."""
    return with_options(READING, command)


def with_options(options: tuple[Callable[[Any], Any], ...], command: Command) -> Command:
    """Add options so that help lists them in their order."""
    for add in reversed(options):
        command = add(command)
    return command

"""`streamconv convert`."""

from typing import Any

import click

from streamconv.cli._completion import complete_target
from streamconv.cli._conversion_options import conversion_options
from streamconv.cli._options import option, source_argument, target_argument
from streamconv.cli._verb import Verb

EXAMPLES = (
    "streamconv convert merged hub --to hub",
    "streamconv convert Qwen3-30B-A3B half --dtype bf16 --max-shard-size 2GB",
    "streamconv convert Qwen3-30B-A3B dcp --to fused-transposed --format dcp",
)


@click.command("convert", cls=Verb, examples=EXAMPLES)
@source_argument
@target_argument
@option(
    "--to",
    group="layout",
    shell_complete=complete_target,
    default="same",
    show_default=True,
    metavar="LAYOUT",
    help="Write this form (hub, transformers, mindspeed), or every expert stack in this layout; "
    "`same` keeps all layouts and names.",
)
@conversion_options
def command(src: str, dst: str, to: str, **options: Any) -> None:
    """Convert SRC to any layout or form, dtype, format or shard size.

    DST is a new checkpoint. SRC may have experts or not.
    """
    from streamconv.cli._run import run_command

    run_command(src, dst, to, **options)

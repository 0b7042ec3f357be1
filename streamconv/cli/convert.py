"""`streamconv convert`."""

from typing import Any

import click

from streamconv.cli._options import conversion_options, option, source_argument, target_argument


@click.command("convert")
@source_argument
@target_argument
@option(
    "--to",
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

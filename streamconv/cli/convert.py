"""`streamconv convert`."""

from typing import Any

import click

from streamconv.cli._options import conversion_options, option, source_argument, target_argument


@click.command("convert")
@source_argument
@target_argument
@option(
    "--to",
    required=True,
    metavar="LAYOUT",
    help="A form (hub, transformers, mindspeed) or a layout for every expert stack.",
)
@conversion_options
def command(src: str, dst: str, to: str, **options: Any) -> None:
    """Convert SRC to any layout or form, into a new checkpoint DST."""
    from streamconv.cli._run import run_command

    run_command(src, dst, to, **options)

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
    help="Write this form (hub, transformers, mindspeed), or every expert stack in this layout.",
)
@conversion_options
def command(src: str, dst: str, to: str, **options: Any) -> None:
    """Convert SRC to any layout or form.

    DST is a new checkpoint.
    """
    from streamconv.cli._run import run_command

    run_command(src, dst, to, **options)

"""`streamconv layouts`."""

import click

from streamconv.cli._completion import complete_layout
from streamconv.cli._options import json_option
from streamconv.cli._verb import Verb

EXAMPLES = (
    "streamconv layouts",
    "streamconv layouts fused fused-transposed",
)


@click.command("layouts", cls=Verb, examples=EXAMPLES)
@click.argument("names", metavar="[LAYOUT]...", nargs=-1, shell_complete=complete_layout)
@json_option
def command(names: tuple[str, ...], as_json: bool) -> None:
    """List the known layouts of expert weights, or some of them."""
    from streamconv.cli._output import print_json, print_rich

    if as_json:
        from streamconv.report.catalog_report import layouts_fields

        print_json(layouts_fields(names))
    else:
        from streamconv.report.catalog_report import layouts_table

        print_rich(layouts_table(names))

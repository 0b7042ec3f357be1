"""`streamconv layouts`."""

import click

from streamconv.cli.options import json_option


@click.command("layouts")
@json_option
def command(as_json: bool) -> None:
    """Show the layouts there are: where each axis of the expert weights lives."""
    from streamconv.catalogue import layout_rows
    from streamconv.cli.conversion import print_json, print_rich

    rows = list(layout_rows())
    if as_json:
        print_json({"schema": 1, "kind": "layouts", "layouts": rows})
    else:
        from streamconv.tables import layouts_table

        print_rich(layouts_table(rows))

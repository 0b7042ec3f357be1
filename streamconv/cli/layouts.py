"""`streamconv layouts`."""

import click

from streamconv.cli._options import json_option


@click.command("layouts")
@json_option
def command(as_json: bool) -> None:
    """Show the layouts there are: where each axis of the expert weights lives."""
    from streamconv.cli._run import print_json, print_rich

    if as_json:
        from streamconv.report.json_output import layouts_fields

        print_json(layouts_fields())
    else:
        from streamconv.catalog.catalog import default_catalog
        from streamconv.catalog.listing import layout_rows
        from streamconv.report.tables import layouts_table

        print_rich(layouts_table(list(layout_rows(default_catalog()))))

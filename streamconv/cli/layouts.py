"""`streamconv layouts`."""

import click

from streamconv.cli._options import json_option


@click.command("layouts")
@json_option
def command(as_json: bool) -> None:
    """List the known layouts of expert weights."""
    from streamconv.cli._output import print_json, print_rich

    if as_json:
        from streamconv.report.catalog_report import layouts_fields

        print_json(layouts_fields())
    else:
        from streamconv.report.catalog_report import layouts_table

        print_rich(layouts_table())

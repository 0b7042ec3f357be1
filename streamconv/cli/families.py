"""`streamconv families`."""

import click

from streamconv.cli._options import json_option


@click.command("families")
@json_option
def command(as_json: bool) -> None:
    """List the known model families and their forms."""
    from streamconv.cli._output import print_json, print_rich

    if as_json:
        from streamconv.report.catalog_report import families_fields

        print_json(families_fields())
    else:
        from streamconv.report.catalog_report import families_table

        print_rich(families_table())

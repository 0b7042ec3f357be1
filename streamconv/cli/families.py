"""`streamconv families`."""

import click

from streamconv.cli._options import json_option


@click.command("families")
@json_option
def command(as_json: bool) -> None:
    """List the known model families and their forms."""
    from streamconv.cli._output import print_json, print_rich

    if as_json:
        from streamconv.report.json_output import families_fields

        print_json(families_fields())
    else:
        from streamconv.catalog.catalog import default_catalog
        from streamconv.catalog.listing import family_rows
        from streamconv.report.tables import families_table

        print_rich(families_table(list(family_rows(default_catalog()))))

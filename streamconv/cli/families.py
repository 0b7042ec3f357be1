"""`streamconv families`."""

import click

from streamconv.cli.options import json_option


@click.command("families")
@json_option
def command(as_json: bool) -> None:
    """Show the model families there are, their forms, and what they convert to."""
    from streamconv.catalogue import family_rows
    from streamconv.cli.conversion import print_json, print_rich

    rows = list(family_rows())
    if as_json:
        print_json({"schema": 1, "kind": "families", "families": rows})
    else:
        from streamconv.tables import families_table

        print_rich(families_table(rows))

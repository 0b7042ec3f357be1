"""`streamconv families`."""

import click

from streamconv.cli._completion import complete_family
from streamconv.cli._options import json_option
from streamconv.cli._verb import Verb

EXAMPLES = (
    "streamconv families",
    "streamconv families qwen3_moe deepseek_v3",
)


@click.command("families", cls=Verb, examples=EXAMPLES)
@click.argument("names", metavar="[MODEL_TYPE]...", nargs=-1, shell_complete=complete_family)
@json_option
def command(names: tuple[str, ...], as_json: bool) -> None:
    """List the known model families and their forms, or those of some model types."""
    from streamconv.cli._output import print_json, print_rich

    if as_json:
        from streamconv.report.catalog_report import families_fields

        print_json(families_fields(names))
    else:
        from streamconv.report.catalog_report import families_table

        print_rich(families_table(names))

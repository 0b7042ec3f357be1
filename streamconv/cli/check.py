"""`streamconv check`."""

import click

from streamconv.cli._options import json_option
from streamconv.cli._verb import Verb

EXAMPLES = ("streamconv check merged",)


@click.command("check", cls=Verb, examples=EXAMPLES)
@click.argument("dst", type=click.Path())
@json_option
def command(dst: str, as_json: bool) -> None:
    """Check if transformers would load the checkpoint DST.

    Shows missing, unexpected and mismatched keys. Builds the model of config.json on the meta
    device and loads the headers into it: reads no weight and runs no code of the checkpoint.
    Needs torch and transformers. Exits with 5 if the checkpoint would not load cleanly.
    """
    from streamconv import VerifyFailed, check
    from streamconv.cli._output import print_json, print_rich
    from streamconv.errors import quoted

    found = check(dst)
    if as_json:
        from streamconv.report.result_json import loading_fields

        print_json(loading_fields(dst, found))
    else:
        from streamconv.report.messages import loading_table

        print_rich(loading_table(dst, found))
    if not found.is_clean:
        raise VerifyFailed(f"{quoted(dst)} would not load cleanly into {found.model}")

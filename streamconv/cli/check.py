"""`streamconv check`."""

import click

from streamconv.cli._options import json_option


@click.command("check")
@click.argument("dst", type=click.Path())
@json_option
def command(dst: str, as_json: bool) -> None:
    """Would transformers load the checkpoint DST? Missing, unexpected and mismatched keys.

    Builds the model of its config.json on the meta device and loads the headers into it: no
    weight is read, and no code of the checkpoint is run. Needs torch and transformers. Exits with
    5 where it would not load cleanly.
    """
    from streamconv import VerifyFailed, check
    from streamconv.cli._run import print_json, print_rich
    from streamconv.errors import quoted

    found = check(dst)
    if as_json:
        from streamconv.report.json_output import loading_fields

        print_json(loading_fields(dst, found))
    else:
        from streamconv.report.messages import loading_table

        print_rich(loading_table(dst, found))
    if not found.is_clean:
        raise VerifyFailed(f"{quoted(dst)} would not load cleanly into {found.model}")

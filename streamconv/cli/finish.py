"""`streamconv finish`."""

import click

from streamconv.cli._options import json_option, quiet_option, target_argument, verify_option


@click.command("finish")
@target_argument
@verify_option
@json_option
@quiet_option
def command(dst: str, verify: bool, as_json: bool, quiet: bool) -> None:
    """Close DST when all its parts are there, which --part K/N has made.

    Copies the other files, writes index and manifest, and moves the result to its place.
    """
    from streamconv import finish
    from streamconv.cli._run import show_result

    show_result(finish(dst, verify=verify), as_json=as_json, quiet=quiet)

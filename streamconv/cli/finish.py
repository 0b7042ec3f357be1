"""`streamconv finish`."""

import click

from streamconv.cli._options import json_option, quiet_option, target_argument, verify_option


@click.command("finish")
@target_argument
@verify_option
@json_option
@quiet_option
def command(dst: str, verify: bool, as_json: bool, quiet: bool) -> None:
    """Commit DST after all of its parts (--part K/N) are complete.

    Copies the other files, writes index and manifest, and moves the result to DST. SRC is the
    source of the parts.
    """
    from streamconv.system.resources import require_address_space

    require_address_space()
    from streamconv import finish
    from streamconv.cli._output import Output

    Output(as_json, quiet).show_result(finish(dst, verify=verify))

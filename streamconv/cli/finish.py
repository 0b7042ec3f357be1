"""`streamconv finish`."""

import click

from streamconv.cli._options import (
    json_option,
    no_progress_option,
    quiet_option,
    target_argument,
    verbose_option,
    verify_option,
)
from streamconv.cli._verb import Verb

EXAMPLES = (
    "streamconv merge Qwen3-30B-A3B merged --part 1/2",
    "streamconv merge Qwen3-30B-A3B merged --part 2/2",
    "streamconv finish merged --verify",
)


@click.command("finish", cls=Verb, examples=EXAMPLES)
@target_argument
@verify_option
@json_option
@quiet_option
@verbose_option("Name each file that --verify has compared, and how much of it.")
@no_progress_option
def command(
    dst: str, verify: bool, as_json: bool, quiet: bool, verbose: bool, no_progress: bool
) -> None:
    """Commit DST after all of its parts (--part K/N) are complete.

    Copies the other files, writes index and manifest, and moves the result to DST. SRC is the
    source of the parts.
    """
    from streamconv.system.resources import require_address_space

    require_address_space()
    from streamconv import finish
    from streamconv.cli._output import Output

    output = Output(as_json, quiet, verbose, no_progress)
    with output.progress() as progress:
        result = finish(dst, verify=verify, on_event=progress)
    output.show_result(result)

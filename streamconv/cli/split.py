"""`streamconv split`."""

from typing import Any

import click

from streamconv.cli._conversion_options import conversion_options
from streamconv.cli._options import source_argument, target_argument
from streamconv.cli._verb import Verb

EXAMPLES = ("streamconv split merged Qwen3-30B-A3B-again",)


@click.command("split", cls=Verb, examples=EXAMPLES)
@source_argument
@target_argument
@conversion_options
def command(src: str, dst: str, **options: Any) -> None:
    """Split the merged experts of SRC into one tensor each.

    DST is a new checkpoint with the names of the hub. Restores every name, shape, dtype and byte
    of a merged checkpoint.
    """
    from streamconv.catalog.layouts import PER_EXPERT
    from streamconv.cli._run import run_command

    run_command(src, dst, PER_EXPERT, **options)

"""`streamconv inspect`."""

from typing import Any

import click

from streamconv.cli._options import json_option, reading_options, source_argument
from streamconv.cli._verb import Verb

EXAMPLES = (
    "streamconv inspect Qwen3-30B-A3B",
    "streamconv inspect hf://Qwen/Qwen3-30B-A3B --json",
)


@click.command("inspect", cls=Verb, examples=EXAMPLES)
@source_argument
@json_option
@reading_options
def command(src: str, as_json: bool, **reading: Any) -> None:
    """Show the family, expert stacks and sizes of the checkpoint SRC.

    Reads headers and JSON only.
    """
    from streamconv import inspect
    from streamconv.cli._output import print_json, print_rich
    from streamconv.cli._run import check_names

    check_names(reading["family"], reading["source_layout"])
    inspection = inspect(src, **reading)
    checkpoint, found = inspection.checkpoint, inspection.detected
    if as_json:
        from streamconv.report.checkpoint_json import inspection_fields

        print_json(inspection_fields(checkpoint, found))
        return
    from streamconv.report.checkpoint_tables import inspection_table

    print_rich(inspection_table(checkpoint, found))

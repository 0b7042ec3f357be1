"""`streamconv inspect`."""

import click

from streamconv.cli.options import from_option, json_option, source_argument


@click.command("inspect")
@source_argument
@json_option
@from_option
def command(src: str, as_json: bool, source_layout: str | None) -> None:
    """Show what is in the checkpoint SRC: its family, expert stacks and sizes.

    Reads headers and JSON only.
    """
    from streamconv import inspect
    from streamconv.cli.conversion import print_json, print_rich

    source, found = inspect(src, source_layout=source_layout)
    if as_json:
        from streamconv.report import inspection_fields

        print_json(inspection_fields(source.checkpoint, found))
        return
    from streamconv.tables import inspection_table

    print_rich(inspection_table(source.checkpoint, found))

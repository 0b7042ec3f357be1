"""`streamconv smoke`."""

import tempfile
import time
from pathlib import Path

import click

from streamconv.units import show_duration


@click.command("smoke")
def command() -> None:
    """Convert a small checkpoint of each model family there and back.

    Made for CI: checks this installation in a few seconds, offline. Ends with code 5 where
    something comes out other than it should.
    """
    from streamconv.smoke import run_smoke

    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="streamconv-smoke-") as folder:
        for done in run_smoke(Path(folder)):
            click.echo(
                f"{done.family:20} {done.tensors} tensors -> {done.form}: {done.merged_tensors}, "
                "as it should be -> hub: every byte as it was"
            )
    click.echo(f"all right, {show_duration(time.monotonic() - begin)}")

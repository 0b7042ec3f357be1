"""`streamconv smoke`."""

import tempfile
import time
from pathlib import Path

import click

from streamconv.report.terminal import say
from streamconv.units import show_duration


@click.command("smoke")
def command() -> None:
    """Convert a small checkpoint of each model family there and back.

    Tests this installation in a few seconds, offline, for CI. Exits with 5 if a result is wrong.
    """
    from streamconv.smoke import run_smoke

    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="streamconv-smoke-") as folder:
        for done in run_smoke(Path(folder)):
            say(
                f"{done.family:20} {done.form}: {done.tensors} -> {done.merged_tensors} tensors, "
                "correct -> hub: identical"
            )
    say(f"ok, {show_duration(time.monotonic() - begin)}")

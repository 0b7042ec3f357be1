"""`streamconv smoke`."""

import tempfile
import time
from pathlib import Path

import click

from streamconv.cli._options import json_option, no_progress_option, quiet_option
from streamconv.cli._verb import Verb

EXAMPLES = (
    "streamconv smoke",
    "streamconv smoke --json",
)


@click.command("smoke", cls=Verb, examples=EXAMPLES)
@json_option
@quiet_option
@no_progress_option
def command(as_json: bool, quiet: bool, no_progress: bool) -> None:
    """Convert a small checkpoint of each model family there and back.

    Tests this installation in a few seconds, offline, for CI. Exits with 5 if a result is wrong.
    """
    from streamconv.cli._output import Output, print_json
    from streamconv.report.progress_facts import Counted, CountStarted
    from streamconv.report.smoke_report import smoke_fields, smoke_lines
    from streamconv.report.terminal import say
    from streamconv.smoke import count_families, run_smoke

    begin = time.monotonic()
    passed = []
    progress = Output(as_json, quiet, no_progress=no_progress).progress()
    with tempfile.TemporaryDirectory(prefix="streamconv-smoke-") as folder, progress:
        progress(CountStarted("converting", count_families(), "families"))
        for done in run_smoke(Path(folder)):
            passed.append((done.family, done.form, done.tensors, done.merged_tensors))
            progress(Counted(done.family))
    seconds = time.monotonic() - begin
    if as_json:
        print_json(smoke_fields(passed, seconds))
    elif not quiet:
        say(*smoke_lines(passed, seconds))

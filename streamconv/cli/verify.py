"""`streamconv verify`."""

from typing import Any

import click

from streamconv.cli._completion import complete_source
from streamconv.cli._options import (
    jobs_option,
    json_option,
    no_progress_option,
    option,
    quiet_option,
    reading_options,
    source_argument,
    verbose_option,
)
from streamconv.cli._verb import Verb

EXAMPLES = (
    "streamconv verify Qwen3-30B-A3B merged",
    "streamconv verify merged --sha256",
)


@click.command("verify", cls=Verb, examples=EXAMPLES)
@source_argument
@click.argument("dst", type=click.Path(), required=False)
@option(
    "--sample",
    group="verification",
    metavar="SHARE",
    default="100%",
    help="Compare only this share of each layer's experts and of the other tensors, such as 5%.",
)
@option(
    "--sha256",
    group="verification",
    is_flag=True,
    help="Show the SHA-256 of each file, as the hub shows it.",
)
@reading_options
@option(
    "--to",
    "target_layout",
    group="layout",
    shell_complete=complete_source,
    metavar="LAYOUT",
    help="Layout or form of DST, if DST does not record its own.",
)
@jobs_option
@json_option
@quiet_option
@verbose_option("Name each file that has been compared, and how much of it.")
@no_progress_option
def command(
    src: str,
    dst: str | None,
    sample: str,
    sha256: bool,
    target_layout: str | None,
    jobs: int | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    no_progress: bool,
    **reading: Any,
) -> None:
    """Verify that DST is the conversion of SRC, bit for bit.

    Any program may have made DST. With one checkpoint alone, verifies its files against the
    checksums in its manifest. Names each tensor and expert that differs. Exits with 5 if something
    differs.
    """
    from streamconv.system.resources import require_address_space

    require_address_space()
    from streamconv import verify
    from streamconv.cli._output import Output
    from streamconv.cli._run import check_names

    check_names(reading["family"], reading["source_layout"], target_layout)
    output = Output(as_json, quiet, verbose, no_progress)
    with output.progress() as progress:
        verification = verify(
            src,
            dst,
            target_layout=target_layout,
            sample=sample,
            sha256=sha256,
            jobs=jobs,
            on_event=progress,
            **reading,
        )
    output.show_verification(verification)

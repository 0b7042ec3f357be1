"""`streamconv verify`."""

from typing import Any

import click

from streamconv.cli._options import (
    jobs_option,
    json_option,
    no_progress_option,
    option,
    quiet_option,
    reading_options,
    source_argument,
)


def _share(ctx: click.Context, parameter: click.Parameter, text: str) -> float:
    """A share as `5%` or `0.05`."""
    number, percent = text.removesuffix("%"), text.endswith("%")
    try:
        return float(number) / (100 if percent else 1)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no share: write 5% or 0.05") from None


@click.command("verify")
@source_argument
@click.argument("dst", type=click.Path(), required=False)
@option(
    "--sample",
    metavar="SHARE",
    default="100%",
    callback=_share,
    help="Look at 5% of each layer's experts and of the other tensors, for a quick answer.",
)
@option("--sha256", is_flag=True, help="Show the SHA-256 of each file, as the hub does.")
@reading_options
@option(
    "--to",
    "target_layout",
    metavar="LAYOUT",
    help="Layout or form of DST, where it does not say so itself.",
)
@jobs_option
@json_option
@quiet_option
@no_progress_option
def command(
    src: str,
    dst: str | None,
    sample: float,
    sha256: bool,
    target_layout: str | None,
    jobs: int | None,
    as_json: bool,
    quiet: bool,
    no_progress: bool,
    **reading: Any,
) -> None:
    """Prove that DST is the true conversion of SRC, bit for bit, whatever made it.

    With one checkpoint alone, check its files against the digests in its manifest, and its
    structure against itself. Ends with code 5 where something differs, naming each tensor and
    expert.
    """
    from streamconv import verify
    from streamconv.cli._run import listener, show_verification

    with listener(quiet or no_progress) as hear:
        verification = verify(
            src,
            dst,
            target_layout=target_layout,
            sample=sample,
            sha256=sha256,
            jobs=jobs,
            on_event=hear,
            **reading,
        )
    show_verification(verification, as_json=as_json, quiet=quiet)

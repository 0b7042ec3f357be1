"""`streamconv merge`."""

from typing import Any

import click

from streamconv.cli._completion import complete_target
from streamconv.cli._conversion_options import conversion_options
from streamconv.cli._options import option, source_argument, target_argument
from streamconv.cli._verb import Verb

EXAMPLES = (
    "streamconv merge Qwen3-30B-A3B merged --dry-run",
    "streamconv merge Qwen3-30B-A3B merged --verify",
    "streamconv merge hf://Qwen/Qwen3-30B-A3B merged --to fused-transposed",
)


@click.command("merge", cls=Verb, examples=EXAMPLES)
@source_argument
@target_argument
@option(
    "--to",
    group="layout",
    shell_complete=complete_target,
    metavar="LAYOUT",
    help="Write every expert stack in this form or layout instead.",
)
@conversion_options
def command(src: str, dst: str, to: str | None, **options: Any) -> None:
    """Merge the experts of each layer of SRC.

    DST is a new checkpoint in the form that the model's training framework expects: MindSpeed-MM's
    for InternVL3.5, GLM-4.5V and Qwen3-Omni, transformers' for other known families, `fused` for
    unknown ones.
    """
    from streamconv.cli._run import run_command

    run_command(src, dst, to, **options)

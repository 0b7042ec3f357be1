"""What merge, split and convert do: show the plan, or carry it out."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from streamconv.execution.result import Result
    from streamconv.report.progress import Listener
    from streamconv.verification.result import Verification


def run_command(
    src: str,
    dst: str,
    to: str | None,
    *,
    dry_run: bool,
    as_json: bool,
    overwrite: bool,
    verify: bool,
    resume: bool,
    quiet: bool,
    verbose: bool,
    no_progress: bool,
    rate: str | None,
    **options: Any,
) -> None:
    """Convert `src` to `to`, or with `dry_run` show how; None is what merging makes of it."""
    from streamconv.system.launcher import rank

    beside = bool(rank())
    if dry_run:
        silent, json_too = quiet or beside, as_json and not beside
        _show_plan(src, dst, to, json_too, overwrite, resume, silent, verbose, rate, options)
        return
    from streamconv import convert, merge

    with listener(quiet or no_progress or beside) as shown:

        def hear(event: Any) -> None:
            if resume and not quiet:
                _say_where_it_goes_on(event, shown)
            shown(event)

        common: Any = {
            "overwrite": overwrite,
            "resume": resume,
            "verify": verify,
            "on_event": hear,
            **options,
        }
        result = merge(src, dst, **common) if to is None else convert(src, dst, to=to, **common)
    if result.closed and result.part.number == 1:
        show_result(result, as_json=as_json, quiet=quiet)
    elif not result.closed and not quiet:
        from streamconv.report.messages import part_line

        click.echo(part_line(result), err=as_json)


def show_result(result: "Result", *, as_json: bool, quiet: bool) -> None:
    """What has been done, on stdout."""
    if as_json:
        from streamconv.report.json_output import result_fields

        print_json(result_fields(result))
    elif not quiet:
        from streamconv.report.messages import result_line
        from streamconv.report.plan_notes import notes_of

        click.echo(result_line(result))
        for note in notes_of(result.plan):
            click.echo(f"note: {note}")


def _show_plan(
    src: str,
    dst: str,
    to: str | None,
    as_json: bool,
    overwrite: bool,
    resume: bool,
    quiet: bool,
    verbose: bool,
    rate: str | None,
    options: dict[str, Any],
) -> None:
    """The plan on stdout; then fails where carrying it out would fail."""
    from streamconv import plan
    from streamconv.planning.partition import parse_partition
    from streamconv.sinks.checkpoint_folder import CheckpointFolder
    from streamconv.system.resources import free_disk
    from streamconv.units import parse_rate

    asked = rate or options.get("max_rate")
    bytes_per_second = parse_rate(asked) if asked else None
    planned = plan(src, to=to, **options)
    free = free_disk(Path(dst).absolute().parent)
    if as_json:
        from streamconv.report.json_output import plan_fields

        print_json(plan_fields(planned, free, bytes_per_second))
    elif not quiet:
        from streamconv.report.tables import plan_table

        print_rich(plan_table(planned, free, bytes_per_second, verbose=verbose))
    part = parse_partition(options.get("part") or "1/1")
    resume = resume or part.of > 1  # as other parts may have begun
    CheckpointFolder(dst, overwrite=overwrite, resume=resume, part=part).check(planned, src)


def _say_where_it_goes_on(event: Any, shown: "Listener") -> None:
    from streamconv.execution.events import Prepared

    if isinstance(event, Prepared):
        done, shards = len(event.finished), len(event.plan.shards)
        shown.say(
            f"going on: {done} of {shards} shards are finished already"
            if done
            else "nothing to go on with: no shard is finished, starting anew"
        )


def show_verification(verification: "Verification", *, as_json: bool, quiet: bool) -> None:
    """What was found on stdout; then fails where something differs."""
    if as_json:
        from streamconv.report.json_output import verification_fields

        print_json(verification_fields(verification))
    elif not quiet:
        from streamconv.report.messages import verification_lines

        for line in verification_lines(verification):
            click.echo(line)
    verification.require()


def listener(silent: bool) -> "Listener":
    """What hears events: a bar, lines, or nothing."""
    from rich.console import Console

    from streamconv.report.progress import Bar, Lines, Silence

    console = Console(stderr=True)
    if silent:
        return Silence(console)
    return Bar(console) if console.is_terminal else Lines(console)


def print_json(fields: dict[str, Any]) -> None:
    """One JSON document on stdout."""
    json.dump(fields, sys.stdout, indent=2)
    sys.stdout.write("\n")


def print_rich(renderable: Any) -> None:
    """Tables on stdout, as wide as the terminal, or as they need where there is none."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=160)
    console.print(renderable)

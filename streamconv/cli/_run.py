"""The run of merge, split and convert: show the plan, or carry it out."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from streamconv.cli._output import Output, print_json, print_rich

if TYPE_CHECKING:
    from streamconv.execution.events import Prepared
    from streamconv.options import Options


MANY_BYTES = 1000
"""A memory limit or rate below this needs a unit: nobody means so few bytes."""


def run_command(
    src: str,
    dst: str,
    to: str | None,
    *,
    dry_run: bool,
    rate: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    no_progress: bool,
    **options: Any,
) -> None:
    """Convert a checkpoint, or show the plan.

    If torchrun has started several ranks, only rank 0 prints.

    Args:
        src: Location of the checkpoint.
        dst: Folder to write.
        to: Form or layout of the output; None for the one that `merge` converts it to.
        dry_run: True to print the plan and write nothing.
        rate: With `dry_run`, the bytes a second from which the duration is estimated.
        as_json: True to print JSON instead of text.
        quiet: True to print errors only.
        verbose: True to print every layer and shard of the plan.
        no_progress: True to show no progress.
        **options: The options of `streamconv.merge`.

    Raises:
        StreamconvError: One of its subclasses.
    """
    from streamconv.system.launcher import rank
    from streamconv.system.resources import require_address_space

    if not dry_run:
        require_address_space()

    check_names(options["family"], options["source_layout"], to)
    _check_sizes(options, rate)
    if rank():
        as_json, quiet = False, True
    output = Output(as_json, quiet, verbose, no_progress)
    if dry_run:
        _show_plan(src, dst, to, output, rate, **options)
    else:
        _convert(src, dst, to, output, **options)


def check_names(family: str | None, *names: str | None) -> None:
    """Raise UsageError for a name that is neither a form nor a layout, before anything is opened.

    Args:
        family: The file of `--family`, which may have more layouts.
        names: The values of `--from` and `--to`; None if they are not given.
    """
    from streamconv.catalog.catalog import load_catalog
    from streamconv.catalog.families import SAME

    catalog = load_catalog(family)
    for name in filter(None, names):
        catalog.check_name(name, SAME)


def _check_sizes(options: Mapping[str, Any], rate: str | None) -> None:
    """Raise UsageError, before opening anything, for a malformed or far too small size or rate."""
    from streamconv.units import check_unit, parse_rate, parse_size

    for size, least in ((options["max_shard_size"], 100), (options["max_memory"], MANY_BYTES)):
        if size is not None:
            parse_size(size)
            check_unit(size, least)
    for each in filter(None, (options["max_rate"], rate)):
        parse_rate(each)
        check_unit(each, MANY_BYTES)


def _convert(
    src: str, dst: str, to: str | None, output: Output, *, resume: bool, **options: Any
) -> None:
    """Run the conversion and print its result."""
    from streamconv import convert, merge
    from streamconv.execution.events import Prepared

    with output.progress() as progress:

        def on_event(event: Any) -> None:
            progress(event)
            if resume and not output.quiet and isinstance(event, Prepared):
                progress.say(_resume_line(event))

        options |= {"resume": resume, "on_event": on_event}
        result = merge(src, dst, **options) if to is None else convert(src, dst, to=to, **options)
    if not result.closed:
        output.show_part(result)
    elif result.part.number == 1:
        output.show_result(result)


def _resume_line(event: "Prepared") -> str:
    """Return the line that says where a resumed run begins."""
    if not event.finished:
        return "nothing to resume: no shard is complete, starting from the beginning"
    return f"resuming: {len(event.finished)} of {len(event.plan.shards)} shards are complete"


def _show_plan(
    src: str,
    dst: str,
    to: str | None,
    output: Output,
    rate: str | None,
    *,
    overwrite: bool,
    resume: bool,
    **options: Any,
) -> None:
    """Print the plan. Raises the errors that a run would begin with, such as OutputExists."""
    from streamconv.api.conversions import plan_run
    from streamconv.planning.partition import check_verified, parse_partition
    from streamconv.sinks.checkpoint_folder import CheckpointFolder
    from streamconv.sinks.overlap import option_paths
    from streamconv.system.resources import free_disk
    from streamconv.units import parse_rate

    rate = rate or options.get("max_rate")
    bytes_per_second = parse_rate(rate) if rate else None
    part = parse_partition(options.get("part") or "1/1")
    if options["verify"]:
        check_verified(part, dst)
    resume = resume or part.of > 1  # other parts may already have written to the target
    planned = plan_run(src, to=to, resume=resume, **options)
    reads = option_paths(cast("Options", options))
    sink = CheckpointFolder(dst, overwrite=overwrite, resume=resume, part=part, reads=reads)
    removals = sink.removals(planned)
    free = free_disk(Path(dst).absolute().parent)
    if output.as_json:
        from streamconv.report.plan_json import plan_fields

        print_json(plan_fields(planned, free, bytes_per_second, removals))
    elif not output.quiet:
        from streamconv.report.plan_tables import plan_table

        verbose = output.verbose
        print_rich(plan_table(planned, free, bytes_per_second, removals, verbose=verbose))
    sink.check(planned)

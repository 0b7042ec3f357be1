"""The public functions that plan a conversion and carry it out."""

from typing import TYPE_CHECKING, Unpack

from streamconv.api.option_docs import takes
from streamconv.api.run_options import RunOptions
from streamconv.options import Location, Options

if TYPE_CHECKING:
    from streamconv.api.events import OnEvent
    from streamconv.execution.result import Result
    from streamconv.planning.plan import Plan


@takes(Options)
def plan(src: Location, *, to: str | None = None, **options: Unpack[Options]) -> "Plan":
    """Plan a conversion from headers alone; write nothing.

    Args:
        src: {source}
        to: Form or layout of the output; `same` keeps those of `src`. Default: the one that
            `merge` converts `src` to.
        {options}

    Returns:
        The output shards with every tensor, and the memory that the conversion needs.

    Raises:
        {reading_errors}
    """
    return _plan(src, to, options)


@takes(Options)
def plan_run(
    src: Location,
    *,
    to: str | None = None,
    verify: bool = False,
    resume: bool = False,
    **options: Unpack[Options],
) -> "Plan":
    """Plan a conversion as its run in this process would, for a dry run. See `plan`.

    `verify` is True if the result would be verified, which takes memory; `resume` if the run would
    go on from shards of other runs or parts, whose source has to be the same.
    """
    return _plan(src, to, options, verify=verify, resume=resume, is_run=True)


def _plan(
    src: Location,
    to: str | None,
    options: Options,
    *,
    verify: bool = False,
    resume: bool = False,
    is_run: bool = False,
) -> "Plan":
    from dataclasses import replace

    from streamconv.catalog.catalog import load_catalog
    from streamconv.planning.build import build_plan
    from streamconv.sources.base import read_whole
    from streamconv.sources.sample import sampled_digest
    from streamconv.sources.wrappers.open_with_template import open_with_template

    catalog = load_catalog(options.get("family"))
    with open_with_template(src, catalog, options, casts=bool(options.get("dtype"))) as source:
        read = read_whole(source)
        plan = build_plan(
            source.checkpoint, catalog, to, options, verify=verify, is_run=is_run, read=read
        )
        return replace(plan, sample=sampled_digest(source)) if resume else plan


@takes(RunOptions)
def merge(
    src: Location, dst: Location, *, to: str | None = None, **options: Unpack[RunOptions]
) -> "Result":
    """Merge the experts of each layer as the model's training framework expects them.

    Args:
        src: {source}
        dst: {target}
        to: Form or layout of every expert stack instead.
        {options}

    Returns:
        {result}

    Raises:
        {errors}
    """
    return _run(src, dst, to, options)


@takes(RunOptions)
def split(src: Location, dst: Location, **options: Unpack[RunOptions]) -> "Result":
    """Split merged experts into one tensor for each expert, under their names on the hub.

    Args:
        src: {source}
        dst: {target}
        {options}

    Returns:
        {result}

    Raises:
        {errors}
    """
    from streamconv.catalog.layouts import PER_EXPERT

    return _run(src, dst, PER_EXPERT, options)


@takes(RunOptions)
def convert(
    src: Location, dst: Location, *, to: str | None = None, **options: Unpack[RunOptions]
) -> "Result":
    """Convert a checkpoint to a form or layout, dtype, format or shard size, in a new folder.

    Args:
        src: {source}
        dst: {target}
        to: Form (`hub`, `transformers`, `mindspeed`), or a layout for every expert stack. Default:
            `same`, which keeps all layouts and names.
        {options}

    Returns:
        {result}

    Raises:
        {errors}
    """
    from streamconv.catalog.families import SAME

    return _run(src, dst, to or SAME, options)


@takes()
def finish(dst: Location, *, verify: bool = False, on_event: "OnEvent | None" = None) -> "Result":
    """Commit an output whose parts are all complete: copy other files, write index and manifest.

    Args:
        dst: Folder that was given to each run with `part`.
        verify: True to verify the result against its source before it is moved to `dst`.
        on_event: Called with each event of the run, in the calling thread.

    Returns:
        {result}

    Raises:
        OutputExists: A part is missing; the message names its shards. Or there is nothing to
            commit.
        StreamconvError: Another of its subclasses, as for `convert`.
    """
    from streamconv.api.logs import logging_events
    from streamconv.execution.conversion import finish_conversion

    return _logged(finish_conversion(dst, verify=verify, on_event=logging_events(on_event)))


def _run(src: Location, dst: Location, to: str | None, options: RunOptions) -> "Result":
    """Run a conversion to the form or layout `to`, or to the family's target of `merge` if None."""
    from streamconv.api.logs import logging_events
    from streamconv.execution.conversion import run_conversion
    from streamconv.execution.request import ConversionRequest

    on_event = logging_events(options.pop("on_event", None))
    overwrite = options.pop("overwrite", False)
    resume = options.pop("resume", False)
    verify = options.pop("verify", False)
    request = ConversionRequest(str(src), dst, to, overwrite, resume, verify, options)
    return _logged(run_conversion(request, on_event))


def _logged(result: "Result") -> "Result":
    """Log the notes and the verification of a result, and return it."""
    from streamconv.api.logs import log_notes, log_verification
    from streamconv.report.plan_notes import notes_of

    log_notes(notes_of(result.plan))
    if result.verification is not None:
        log_verification(result.verification)
    return result

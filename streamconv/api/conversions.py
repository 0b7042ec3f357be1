"""The public functions that plan a conversion and carry it out."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Unpack

from streamconv.api.option_docs import takes
from streamconv.options import Location, Options

if TYPE_CHECKING:
    from streamconv.execution.events import Event
    from streamconv.execution.result import Result
    from streamconv.planning.plan import Plan
    from streamconv.verification.result import VerifyProgress, VerifyStarted


@takes(Options)
def plan(src: Location, *, to: str | None = None, **options: Unpack[Options]) -> "Plan":
    """Plan a conversion from headers alone; write nothing.

    Args:
        src: Folder, hub repository (`hf://org/name@revision`) or URL that fsspec opens.
        to: Form or layout of the output; `same` keeps those of `src`. Default: what `merge` makes
            of `src`.
        {options}

    Returns:
        The output shards with every tensor, and the memory that the conversion needs.

    Raises:
        UsageError: An option makes no sense.
        BadCheckpoint: The checkpoint is malformed, incomplete or contradicts itself.
        PlanRefused: This conversion is not possible, would change nothing, or needs more memory
            than is allowed.
        IOFailed: Reading failed.
    """
    from streamconv.catalog.catalog import load_catalog
    from streamconv.planning.build import build_plan
    from streamconv.sources.base import read_whole
    from streamconv.sources.wrappers.open_with_template import open_with_template

    catalog = load_catalog(options.get("family"))
    with open_with_template(src, catalog, options, casts=bool(options.get("dtype"))) as source:
        read = read_whole(source)
        return build_plan(source.checkpoint, catalog, to, options, read=read)


@takes(Options)
def merge(
    src: Location,
    dst: Location,
    *,
    to: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    verify: bool = False,
    on_event: "Callable[[Event | VerifyStarted | VerifyProgress], None] | None" = None,
    **options: Unpack[Options],
) -> "Result":
    """Merge the experts of each layer as the model's training framework expects them.

    Args:
        src: Folder, hub repository (`hf://org/name@revision`) or URL that fsspec opens.
        dst: Folder to write. It appears complete or not at all.
        to: Form or layout of every expert stack instead.
        overwrite: True to replace `dst` after its replacement is complete.
        resume: True to resume an earlier run of this conversion, if there was one.
        verify: True to verify the result against `src` before it is moved to `dst`.
        on_event: Called with each event of the run, in the calling thread.
        {options}

    Returns:
        The plan, the path of the output, time and memory, and the verification if any.

    Raises:
        StreamconvError: One of its subclasses, as for `convert`.
    """
    from streamconv.execution.conversion import run_conversion
    from streamconv.execution.request import ConversionRequest

    request = ConversionRequest(str(src), dst, to, overwrite, resume, verify, options)
    return run_conversion(request, on_event)


@takes(Options)
def split(
    src: Location,
    dst: Location,
    *,
    overwrite: bool = False,
    resume: bool = False,
    verify: bool = False,
    on_event: "Callable[[Event | VerifyStarted | VerifyProgress], None] | None" = None,
    **options: Unpack[Options],
) -> "Result":
    """Split merged experts into one tensor for each expert, under their names on the hub.

    Args:
        src: Folder, hub repository (`hf://org/name@revision`) or URL that fsspec opens.
        dst: Folder to write. It appears complete or not at all.
        overwrite: True to replace `dst` after its replacement is complete.
        resume: True to resume an earlier run of this conversion, if there was one.
        verify: True to verify the result against `src` before it is moved to `dst`.
        on_event: Called with each event of the run, in the calling thread.
        {options}

    Returns:
        The plan, the path of the output, time and memory, and the verification if any.

    Raises:
        StreamconvError: One of its subclasses, as for `convert`.
    """
    from streamconv.execution.conversion import run_conversion
    from streamconv.execution.request import ConversionRequest
    from streamconv.planning.target import PER_EXPERT

    request = ConversionRequest(str(src), dst, PER_EXPERT, overwrite, resume, verify, options)
    return run_conversion(request, on_event)


@takes(Options)
def convert(
    src: Location,
    dst: Location,
    *,
    to: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    verify: bool = False,
    on_event: "Callable[[Event | VerifyStarted | VerifyProgress], None] | None" = None,
    **options: Unpack[Options],
) -> "Result":
    """Convert a checkpoint to a form or layout, dtype, format or shard size, in a new folder.

    Args:
        src: Folder, hub repository (`hf://org/name@revision`) or URL that fsspec opens.
        dst: Folder to write. It appears complete or not at all.
        to: Form (`hub`, `transformers`, `mindspeed`), or a layout for every expert stack. Default:
            `same`, which keeps all layouts and names.
        overwrite: True to replace `dst` after its replacement is complete.
        resume: True to resume an earlier run of this conversion, if there was one. An error
            has a note if the run that it ended can be resumed.
        verify: True to verify the result against `src` before it is moved to `dst`.
        on_event: Called with each event of the run, in the calling thread.
        {options}

    Returns:
        The plan, the path of the output, time and memory, and the verification if any.

    Raises:
        UsageError: An option makes no sense.
        BadCheckpoint: `src` is malformed, incomplete or contradicts itself, or changed meanwhile.
        PlanRefused: This conversion is not possible, would change nothing, or needs more memory
            than is allowed.
        VerifyFailed: The result is not the conversion of `src`; `dst` is as it was.
        OutputExists: `dst` is not empty, or another run is writing it.
        NoSpace: The disk or a quota is full.
        IOFailed: Reading or writing failed.
    """
    from streamconv.catalog.families import SAME
    from streamconv.execution.conversion import run_conversion
    from streamconv.execution.request import ConversionRequest

    request = ConversionRequest(str(src), dst, to or SAME, overwrite, resume, verify, options)
    return run_conversion(request, on_event)


@takes()
def finish(
    dst: Location,
    *,
    verify: bool = False,
    on_event: "Callable[[Event | VerifyStarted | VerifyProgress], None] | None" = None,
) -> "Result":
    """Commit an output whose parts are all complete: copy other files, write index and manifest.

    Args:
        dst: Folder that was given to each run with `part`.
        verify: True to verify the result against its source before it is moved to `dst`.
        on_event: Called with each event of the run, in the calling thread.

    Returns:
        The plan, the path of the output, time and memory, and the verification if any.

    Raises:
        StreamconvError: One of its subclasses, as for `convert`. If a part is missing, the message
            names its shards.
    """
    from streamconv.execution.conversion import finish_conversion

    return finish_conversion(dst, verify=verify, on_event=on_event)

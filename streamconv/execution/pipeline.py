"""The pipeline of a conversion: opens the source, plans, executes, verifies, commits."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from streamconv.catalog.catalog import load_catalog
from streamconv.errors import SourceChanged, VerifyFailed
from streamconv.execution.pinning import pin_request, resumed_source
from streamconv.execution.request import ConversionRequest
from streamconv.execution.result import Result
from streamconv.options import Options, preset_of
from streamconv.planning.build import build_plan
from streamconv.planning.partition import Partition, assign_shards
from streamconv.sources.base import Source, read_whole
from streamconv.sources.sample import sampled_digest
from streamconv.sources.wrappers.open_with_template import open_with_template
from streamconv.system.buffers import return_freed_memory
from streamconv.system.cancellation import CancelToken
from streamconv.system.resources import peak_bytes
from streamconv.units import parse_rate
from streamconv.verification.result import ProgressEvent, Verification

if TYPE_CHECKING:
    from streamconv.execution.events import Event
    from streamconv.planning.plan import Plan
    from streamconv.sinks.checkpoint_folder import CheckpointFolder
    from streamconv.verification.options import VerifyOptions

OnEvent = Callable[["Event | ProgressEvent"], None]


@dataclass(frozen=True, slots=True)
class Share:
    """The share of a conversion that this process does."""

    partition: Partition = Partition()  # noqa: RUF009 - frozen
    writes_shards: bool = True
    commits: bool = True
    """False if another process commits the result."""
    waits_for_commit: bool = False
    """True if this process returns only after another one has committed."""
    parts: int = 1
    """How many parts share what `finish` commits; 1 if a run without parts began it."""
    readers: int = 1
    """Processes that share the allowed read rate."""


def run_share(
    request: ConversionRequest, share: Share, on_event: OnEvent | None, cancel: CancelToken
) -> Result:
    """Run the pipeline: open, plan, write the shards of the share, verify, commit.

    Args:
        request: What the user asked for.
        share: The share of it that this process does.
        on_event: Called with each event, in the calling thread.
        cancel: Ends the run if it is set.

    Raises:
        StreamconvError: One of its subclasses. If the run can be resumed, a note says so.
    """
    begin = time.monotonic()
    sink = _open_sink(request, share)
    try:
        plan, verification = _write_share(request, share, sink, on_event, cancel)
    except BaseException as error:
        if sink.leftover_note and not isinstance(error, VerifyFailed):
            error.add_note(sink.leftover_note)
        raise
    return Result(
        plan,
        sink.target,
        seconds=time.monotonic() - begin,
        peak_memory=peak_bytes(),
        verification=verification,
        part=share.partition,
        closed=share.commits or share.waits_for_commit,
    )


def _write_share(
    request: ConversionRequest,
    share: Share,
    sink: "CheckpointFolder",
    on_event: OnEvent | None,
    cancel: CancelToken,
) -> tuple["Plan", Verification | None]:
    """Write the shards of the share; verify and commit the result if this process does so.

    Returns:
        The plan, and the verification if it was asked for.
    """
    from streamconv.execution.events import Completed
    from streamconv.verification.options import VerifyOptions

    options = request.options
    verification = None
    catalog = load_catalog(options.get("family"))
    src = resumed_source(request) if request.resume else request.src
    casts = bool(options.get("dtype"))
    with open_with_template(src, catalog, options, casts=casts, cancel=cancel) as source:
        plan = build_plan(
            source.checkpoint,
            catalog,
            request.to,
            options,
            verify=request.verify,
            is_run=True,
            read=read_whole(source),
        )
        # it imports numpy, for which there is room once the plan has given its memory back
        from streamconv.execution.executor import execute

        plan = replace(plan, sample=sampled_digest(source))
        pinned = pin_request(request, source)
        is_stored = share.partition.of > 1 or source.checkpoint.revision is not None
        running = execute(
            plan,
            _readable(source, options, share.readers, cancel),
            sink,
            _shards_of(plan, share),
            commits=share.commits,
            request=pinned.to_json() if is_stored else None,
            cancel=cancel,
        )
        with closing(running) as events:
            for event in events:
                if on_event is not None:
                    on_event(event)
                if request.verify and isinstance(event, Completed):
                    verify_options = VerifyOptions(
                        plan.memory.jobs, catalog, reading=options, on_event=on_event, cancel=cancel
                    )
                    try:
                        verification = _verify(event.folder, pinned, verify_options)
                    except SourceChanged as error:
                        events.throw(error)  # all that was made of it is removed
    return plan, verification


def _open_sink(request: ConversionRequest, share: Share) -> "CheckpointFolder":
    """Return the sink at the target. Nothing is written before it is prepared."""
    from streamconv.sinks.checkpoint_folder import CheckpointFolder
    from streamconv.sinks.overlap import option_paths

    preset = preset_of(request.options)
    return CheckpointFolder(
        request.dst,
        overwrite=request.overwrite,
        resume=request.resume,
        modes=(preset.folder_mode, preset.file_mode) if preset else None,
        part=share.partition,
        parts=share.parts,
        is_finish=not share.writes_shards,
        reads=option_paths(request.options),
        sha256=request.options.get("sha256", False),
    )


def _shards_of(plan: "Plan", share: Share) -> tuple[int, ...]:
    """Return the numbers of the shards that this process writes."""
    sizes = [shard.nbytes for shard in plan.shards]
    return assign_shards(sizes, share.partition) if share.writes_shards else ()


def _readable(source: Source, options: Options, readers: int, cancel: CancelToken) -> Source:
    """Return the source with its wrappers: a share of the rate limit, casts, quantization."""
    from streamconv.sources.wrappers.cast import CastSource
    from streamconv.sources.wrappers.quantize import QuantizedSource
    from streamconv.sources.wrappers.rate_limit import Throttle, ThrottledSource

    rate = options.get("max_rate")
    if rate is not None:
        source = ThrottledSource(source, Throttle(max(parse_rate(rate) // readers, 1), cancel))
    return QuantizedSource(CastSource(source))


def _verify(folder: Path, request: ConversionRequest, options: "VerifyOptions") -> Verification:
    """Verify the complete result in `folder` against its source, before the commit.

    Raises:
        VerifyFailed: It is not the conversion of the source. The target stays as it was.
    """
    from streamconv.verification.run import run_verification

    return_freed_memory()  # which the threads of --sha256 have left
    verification = run_verification(str(folder), request.src, options)
    if request.options.get("template"):
        command = f"`streamconv verify {request.src} {folder}` with the same --template"
    else:
        command = f"`streamconv verify {request.src} {folder}`"
    verification.require(
        f"run {command} to see every difference, or convert again with --overwrite and without "
        f"--resume; {request.dst} is as it was"
    )
    return replace(verification, path=str(request.dst))
